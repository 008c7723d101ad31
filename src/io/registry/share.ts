// A registry's hosts in the hands of another thread: it opens connections of its own, but authorises through the
// thread that knows the credentials, so that a token is asked for once and a secret goes nowhere.
import { MessageChannel, type MessagePort } from 'node:worker_threads';
import { codeOf, type ErrorCode, fail, messageOf } from '../../api/model/errors.ts';
import type { Authorizer, Refusal } from './auth.ts';
import type { RegistryHost } from './hosts.ts';
import type { Reference } from './reference.ts';

export interface SharedRegistry {
  readonly hosts: readonly RegistryHost[];
  readonly reference: Reference;
  readonly userAgent: string;
  /** To be transferred with the rest. */
  readonly port: MessagePort;
}

type Question =
  | { id: number; ask: 'header'; origin: string; scopes: readonly string[] }
  | { id: number; ask: 'learn'; refusal: Omit<Refusal, 'url'> & { url: string }; scopes: readonly string[] }
  | { id: number; ask: 'take' }
  | { tell: 'release'; id: number }
  | { tell: 'line'; line: string }
  | { tell: 'offset'; offset: number };

type Answer = { id: number; value?: string | undefined; error?: { code: ErrorCode; message: string } };

export interface ShareListeners {
  onOffset?: ((offset: number) => void) | undefined;
  onExchange?: ((line: string) => void) | undefined;
  /** Asked before each request for a range; see `RangePlan`. */
  take?: (() => Promise<() => void>) | undefined;
}

/** Answers a thread's questions until `close`. */
export function shareAuthorizer(
  authorizer: Authorizer,
  listeners: ShareListeners,
): { port: MessagePort; close(): void } {
  const { port1, port2 } = new MessageChannel();
  const held = new Map<number, () => void>();
  let closed = false;

  async function take(id: number): Promise<undefined> {
    const release = await listeners.take?.();
    if (release === undefined) return;
    if (closed) release();
    else held.set(id, release);
  }

  port1.on('message', (question: Question) => {
    if ('tell' in question) {
      if (question.tell === 'line') listeners.onExchange?.(question.line);
      else if (question.tell === 'offset') listeners.onOffset?.(question.offset);
      else {
        held.get(question.id)?.();
        held.delete(question.id);
      }
      return;
    }
    (question.ask === 'take' ? take(question.id) : answer(authorizer, question)).then(
      (value) => port1.postMessage({ id: question.id, value } satisfies Answer),
      (error) =>
        port1.postMessage({
          id: question.id,
          error: { code: codeOf(error), message: messageOf(error) },
        } satisfies Answer),
    );
  });
  port1.unref();
  return {
    port: port2,
    close() {
      closed = true;
      port1.close();
      for (const release of held.values()) release();
      held.clear();
    },
  };
}

async function answer(
  authorizer: Authorizer,
  question: Extract<Question, { ask: 'header' | 'learn' }>,
): Promise<string | undefined> {
  if (question.ask === 'header') return authorizer.header(question.origin, question.scopes);
  const { refusal, scopes } = question;
  await authorizer.learn({ ...refusal, url: new URL(refusal.url) }, scopes);
  return undefined;
}

/** On the other thread: an authorizer that asks, and the ways to tell how it goes. */
export function sharedAuthorizer(port: MessagePort): {
  authorizer: Authorizer;
  take(): Promise<() => void>;
  tellOffset(offset: number): void;
  tellExchange(line: string): void;
  close(): void;
} {
  const waiting = new Map<
    number,
    { resolve: (value: string | undefined) => void; reject: (error: Error) => void }
  >();
  let lastId = 0;
  port.on('message', ({ id, value, error }: Answer) => {
    const asker = waiting.get(id);
    waiting.delete(id);
    if (error === undefined) asker?.resolve(value);
    else asker?.reject(fail(error.code, error.message));
  });
  port.once('close', () => {
    for (const { reject } of waiting.values())
      reject(fail('canceled', 'nobody authorises requests any more'));
    waiting.clear();
  });
  const ask = (question: Extract<Question, { ask: unknown }>): Promise<string | undefined> =>
    new Promise((resolve, reject) => {
      waiting.set(question.id, { resolve, reject });
      port.postMessage(question);
    });
  return {
    authorizer: {
      header: (origin, scopes) => ask({ id: ++lastId, ask: 'header', origin, scopes }),
      async learn({ url, headers, authorization }, scopes) {
        const challenge = headers.get('www-authenticate') ?? '';
        const told = new Map([['www-authenticate', challenge]]);
        const refusal = { url: url.href, headers: told, authorization };
        await ask({ id: ++lastId, ask: 'learn', refusal, scopes });
      },
    },
    async take() {
      const id = ++lastId;
      await ask({ id, ask: 'take' });
      return () => port.postMessage({ tell: 'release', id } satisfies Question);
    },
    tellOffset: (offset) => port.postMessage({ tell: 'offset', offset } satisfies Question),
    tellExchange: (line) => port.postMessage({ tell: 'line', line } satisfies Question),
    close: () => port.close(),
  };
}
