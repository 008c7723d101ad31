// Streams of messages beside a transfer: progress that comes in, credentials that go out.
import { randomBytes } from 'node:crypto';
import { packAny, unpackAny } from '../model/binary-stream.ts';
import { fail } from '../model/errors.ts';
import type { CredentialsSource } from '../model/ports/registry.ts';
import type { Any } from '../proto/gen/google/protobuf/any.ts';
import { StreamInit } from '../proto/gen/services/streaming/v1/streaming.ts';
import { Progress } from '../proto/gen/types/transfer/progress.ts';
import { AuthRequest, AuthResponse, AuthType } from '../proto/gen/types/transfer/registry.ts';
import type { Services } from './connection.ts';
import type { BidiCall } from './stub.ts';

/** Opens a stream; only when this resolves may its id be told to anybody. */
async function openStream(
  services: Services,
  prefix: string,
): Promise<{ id: string; call: BidiCall<Any, Any> }> {
  const id = `${prefix}-${randomBytes(9).toString('base64url')}`;
  const call = services.streaming.stream() as BidiCall<Any, Any>;
  try {
    await call.send(packAny(StreamInit, { id }));
    const { done } = await call.responses.next();
    if (done === true) throw fail('unavailable', `stream ${id} was not opened`);
    return { id, call };
  } catch (error) {
    call.cancel();
    throw error;
  }
}

export interface ClientStream extends AsyncDisposable {
  readonly id: string;
}

export interface ProgressStream extends ClientStream {
  /** For a transfer that is through: resolves when all that was said of it has arrived. */
  finish(): Promise<void>;
}

export async function progressStream(
  services: Services,
  onProgress: (progress: Progress) => void,
): Promise<ProgressStream> {
  const { id, call } = await openStream(services, 'progress');
  const reading = (async () => {
    for await (const message of call.responses) {
      const progress = unpackAny(Progress, message);
      if (progress !== undefined) onProgress(progress);
    }
  })().catch(() => {});
  return {
    id,
    // The server ends the stream behind its last message.
    async finish() {
      call.end();
      await reading;
    },
    // A transfer that has failed may never have taken the stream: nobody would end it.
    async [Symbol.asyncDispose]() {
      call.cancel();
      await reading;
    },
  };
}

export async function credentialsStream(
  services: Services,
  credentials: CredentialsSource,
): Promise<ClientStream> {
  const { id, call } = await openStream(services, 'creds');
  const answering = (async () => {
    for await (const message of call.responses) {
      const request = unpackAny(AuthRequest, message);
      if (request === undefined) continue;
      const known = await credentials(request.host);
      let authType: AuthType = AuthType.NONE;
      if (known !== undefined) authType = known.username === '' ? AuthType.REFRESH : AuthType.CREDENTIALS;
      const { username = '', secret = '' } = known ?? {};
      await call.send(packAny(AuthResponse, { authType, username, secret, expireAt: undefined }));
    }
  })().catch(() => call.cancel());
  return {
    id,
    async [Symbol.asyncDispose]() {
      call.end();
      call.cancel();
      await answering;
    },
  };
}
