// The content actor: holds the open ingests, on a thread of its own, so that digests and disk keep nobody waiting.
import { fail } from '../../api/model/errors.ts';
import type { BlobStore, Ingest } from '../../api/model/ports/blobs.ts';
import { type ActorContext, defineActor } from '../../supervisor/actor.ts';
import { isExpected } from '../../supervisor/failure.ts';
import { type Call, type NoReply, noReply } from '../../supervisor/types.ts';
import type { ContentIoProtocol, IngestState } from './protocol.ts';

export interface ContentIoArgs {
  openBlobs: () => BlobStore;
}

interface State {
  readonly blobs: BlobStore;
  readonly open: Map<number, Ingest>;
  /** The last operation of each ingest that has any under way: the next one waits for it. */
  readonly tails: Map<number, Promise<void>>;
  working: number;
}

type Context = ActorContext<never>;

/** Operations under way at once; beyond this, callers are refused rather than queued. */
const workingMax = 8192;

export const contentActor = defineActor<ContentIoProtocol, never, State, ContentIoArgs>({
  name: 'content',
  mailboxLengthMax: 8192,
  stopTimeoutMs: 10_000,

  init: (_context, { openBlobs }) => ({
    blobs: openBlobs(),
    open: new Map(),
    tails: new Map(),
    working: 0,
  }),

  handleCall: {
    put: (state, { digest, data, durable }, call, context) =>
      answer(state, call, context, () =>
        durable ? state.blobs.put(digest, data) : state.blobs.place(digest, data),
      ),

    settle: (state, { digests }, call, context) =>
      answer(state, call, context, () => state.blobs.settle(digests)),

    restore: (state, { blobs }, call, context) =>
      answer(state, call, context, () => state.blobs.restore(blobs)),

    adopt: (state, { path, expected, digest }, call, context) =>
      answer(state, call, context, () => state.blobs.adopt(path, { expected, digest })),

    resume: (state, { id }, call, context) => {
      const canceled = new AbortController();
      call.onCancel(() => canceled.abort());
      const stop = AbortSignal.any([canceled.signal, context.stopping]);
      return inTurn(state, id, call, context, async () => {
        await state.open.get(id)?.close();
        const ingest = await state.blobs.resume(id, stop);
        if (!call.settled) return opened(state, ingest);
        await ingest.close();
        throw fail('canceled', `nobody waits for ingest ${id} any more`);
      });
    },

    create: (state, { id, data }, call, context) =>
      inTurn(state, id, call, context, async () => {
        const ingest = await renewed(state, id);
        await ingest.append(data);
        return stateOf(ingest);
      }),

    copy: (state, { id, digest }, call, context) =>
      inTurn(state, id, call, context, async () => {
        const ingest = await renewed(state, id);
        await ingest.copyFrom(digest);
        return stateOf(ingest);
      }),

    append: (state, { id, data }, call, context) =>
      inTurn(state, id, call, context, async () => {
        const ingest = mustBeOpen(state, id);
        await ingest.append(data);
        return stateOf(ingest);
      }),

    truncate: (state, { id }, call, context) =>
      inTurn(state, id, call, context, async () => {
        const ingest = mustBeOpen(state, id);
        await ingest.truncate();
        return stateOf(ingest);
      }),

    commit: (state, { id, sizeBytes, expected }, call, context) =>
      inTurn(state, id, call, context, async () => {
        const committed = await mustBeOpen(state, id).commit({ sizeBytes, expected });
        state.open.delete(id);
        return committed;
      }),

    close: (state, { id }, call, context) => inTurn(state, id, call, context, () => close(state, id)),

    drop: (state, { id }, call, context) =>
      inTurn(state, id, call, context, async () => {
        await close(state, id);
        await state.blobs.removeIngest(id);
      }),

    emptyTrash: (state, _request, call, context) =>
      answer(state, call, context, () => state.blobs.emptyTrash()),
  },

  async terminate(state) {
    await Promise.allSettled(state.tails.values());
    for (const ingest of state.open.values()) await ingest.close();
  },
});

/** Runs `work` without holding up the mailbox. A bug in it answers the call and ends the actor. */
function answer<Reply>(
  state: State,
  call: Call<Reply>,
  context: Context,
  work: () => Promise<Reply>,
): NoReply {
  if (state.working >= workingMax) {
    throw fail('resource-exhausted', `${workingMax} operations on content are under way`);
  }
  state.working++;
  void run(state, call, context, work);
  return noReply;
}

async function run<Reply>(
  state: State,
  call: Call<Reply>,
  context: Context,
  work: () => Promise<Reply>,
): Promise<void> {
  try {
    call.reply(await work());
  } catch (error) {
    call.fail(error);
    if (!isExpected(error)) context.stop({ kind: 'crash', error });
  } finally {
    state.working--;
  }
}

/** As `answer`, after whatever the ingest is busy with. */
function inTurn<Reply>(
  state: State,
  id: number,
  call: Call<Reply>,
  context: Context,
  work: () => Promise<Reply>,
): NoReply {
  const before = state.tails.get(id);
  return answer(state, call, context, () => {
    const result = before === undefined ? work() : before.then(work);
    const tail = result.then(
      () => {},
      () => {},
    );
    state.tails.set(id, tail);
    void tail.then(() => {
      if (state.tails.get(id) === tail) state.tails.delete(id);
    });
    return result;
  });
}

async function renewed(state: State, id: number): Promise<Ingest> {
  await close(state, id);
  const ingest = await state.blobs.create(id);
  state.open.set(id, ingest);
  return ingest;
}

function opened(state: State, ingest: Ingest): IngestState {
  state.open.set(ingest.id, ingest);
  return stateOf(ingest);
}

async function close(state: State, id: number): Promise<void> {
  const ingest = state.open.get(id);
  state.open.delete(id);
  await ingest?.close();
}

function mustBeOpen(state: State, id: number): Ingest {
  const ingest = state.open.get(id);
  if (ingest === undefined) {
    throw fail('unavailable', `ingest ${id} is not open any more: open its ref again to go on`);
  }
  return ingest;
}

function stateOf(ingest: Ingest): IngestState {
  return { offset: ingest.offset, digest: ingest.digest(), updatedAtNs: ingest.updatedAtNs };
}
