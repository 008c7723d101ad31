// Credentials asked for over a stream, one server at a time, and the log of requests that a client wants to see.
import { packAny, sendBytes, unpackAny } from '../../api/model/binary-stream.ts';
import { fail, wrap } from '../../api/model/errors.ts';
import type { Credentials, CredentialsSource } from '../../api/model/ports/registry.ts';
import { AuthRequest, AuthResponse, AuthType } from '../../api/proto/gen/types/transfer/registry.ts';
import type { Stream } from '../streaming/protocol.ts';

/** How long a person may look for a password. */
const answerMsMax = 600_000;
const logLinesMax = 1024;

/** Throws `unauthenticated` when the client ends the stream or does not answer. */
export function credentialsOver(stream: Stream, reference: string): CredentialsSource {
  let turn: Promise<unknown> = Promise.resolve();
  const ask = async (host: string): Promise<Credentials | undefined> => {
    const request = { host, reference, wwwauthenticate: [] };
    try {
      await stream.send(packAny(AuthRequest, request));
      const answer = await withinTime(stream.receive(), host);
      const response = unpackAny(AuthResponse, answer);
      if (response === undefined) {
        throw fail('unauthenticated', answer === undefined ? 'the stream has ended' : answer.typeUrl);
      }
      return credentialsIn(response);
    } catch (error) {
      throw wrap(`credentials for ${host}`, error);
    }
  };
  return (host) => {
    const next = turn.then(() => ask(host));
    turn = next.catch(() => {});
    return next;
  };
}

function credentialsIn({ authType, secret, username }: AuthResponse): Credentials | undefined {
  if (authType === AuthType.CREDENTIALS) return { username, secret };
  if (authType === AuthType.REFRESH) return { username: '', secret };
  // No credentials, or a ready-made header, which no resolver uses.
  return undefined;
}

async function withinTime<T>(answer: Promise<T>, host: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_resolve, reject) => {
    timer = setTimeout(() => {
      reject(fail('unauthenticated', `no answer for ${host} within ${answerMsMax} ms`));
    }, answerMsMax);
  });
  try {
    return await Promise.race([answer, late]);
  } finally {
    clearTimeout(timer);
  }
}

export interface LineLog extends AsyncDisposable {
  readonly write: (line: string) => void;
}

/** Lines to a client's stream; those that it is too slow for are left out. */
export function linesOver(stream: Stream): LineLog {
  const lines: string[] = [];
  let dropped = 0;
  let wake: (() => void) | undefined;
  let ended = false;
  async function* bytes(): AsyncGenerator<Uint8Array> {
    for (;;) {
      const line = lines.shift();
      if (line !== undefined) yield Buffer.from(`${line}\n`);
      else if (dropped > 0) {
        yield Buffer.from(`(${dropped} lines left out)\n`);
        dropped = 0;
      } else if (ended) return;
      else {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  }
  // A client that does not listen any more is no reason to end the transfer.
  const sending = sendBytes(stream, bytes()).catch(() => {});
  return {
    write(line) {
      if (lines.length < logLinesMax) lines.push(line);
      else dropped += 1;
      wake?.();
    },
    async [Symbol.asyncDispose]() {
      ended = true;
      wake?.();
      // A client that grants nothing must not hold the transfer up.
      await Promise.race([sending, new Promise((resolve) => setTimeout(resolve, 1000).unref())]);
      stream.close();
    },
  };
}
