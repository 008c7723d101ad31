// The Streaming service: a call becomes a stream that later requests name.
import type { Streams } from '../../actors/streaming/protocol.ts';
import { packAny, unpackAny } from '../model/binary-stream.ts';
import { fail } from '../model/errors.ts';
import type { Any } from '../proto/gen/google/protobuf/any.ts';
import { Empty } from '../proto/gen/google/protobuf/empty.ts';
import { StreamInit, StreamingDefinition } from '../proto/gen/services/streaming/v1/streaming.ts';
import { type BoundService, bindService } from './bind.ts';
import type { CallContext } from './context.ts';

export interface StreamingDeps {
  readonly streams: Streams;
}

export function streamingService({ streams }: StreamingDeps): BoundService {
  async function* stream(all: AsyncIterable<Any>, context: CallContext): AsyncGenerator<Any> {
    const requests = all[Symbol.asyncIterator]();
    const first = await requests.next();
    if (first.done === true) throw fail('invalid-argument', 'a stream begins with a StreamInit, got nothing');
    const init = unpackAny(StreamInit, first.value);
    if (init === undefined) {
      throw fail(
        'invalid-argument',
        `a stream begins with a ${StreamInit.$type}, not "${first.value.typeUrl}"`,
      );
    }
    const { namespace, lease, signal } = context;
    using open = streams.open(init.id, { namespace, lease, requests, signal });
    // From here on the id may be named: that is what the client waits for.
    yield packAny(Empty, Empty.create());
    yield* open.outgoing;
  }
  return bindService(StreamingDefinition, { stream }, { endless: true });
}
