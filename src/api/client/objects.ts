// Single objects of a registry, for looking at what is there: read and sent one by one, without an image around them.
import { createHash } from 'node:crypto';
import { fail } from '../model/errors.ts';
import { digestAlgorithm, parseDigest } from '../model/ids.ts';
import type { LinkedDescriptor } from '../model/oci.ts';
import type { Credentials, RegistryConnection } from '../model/ports/registry.ts';
import type { Services } from './connection.ts';
import { contentClient } from './content.ts';
import type { CallOptions } from './stub.ts';

export interface ObjectOptions extends CallOptions {
  plainHttp?: boolean;
  insecureTls?: boolean;
  auth?: Credentials | undefined;
}

export interface FetchObjectOptions extends ObjectOptions {
  /** The digest of the reference is that of a blob that is no manifest. */
  blob?: boolean;
}

export interface Objects {
  /**
   * Bytes of what `host/repository:tag` or `host/repository@digest` names: an index or a manifest, or a blob. Throws `data-loss` at the end when the bytes are not those of the digest.
   */
  fetch(reference: string, options?: FetchObjectOptions): AsyncIterable<Uint8Array>;
  /** Sends a blob of the store; a manifest or index (by its type) goes under the tag of the reference. */
  push(
    reference: string,
    object: { digest: string; mediaType: string },
    options?: ObjectOptions,
  ): Promise<'pushed' | 'exists' | 'mounted'>;
}

export function objectsClient(services: Services): Objects {
  return {
    async *fetch(reference, options = {}) {
      await using opened = await open(reference, options);
      const { connection } = opened;
      const { signal } = options;
      const target = await (options.blob === true ? connection.blob(signal) : connection.resolve(signal));
      const algorithm = digestAlgorithm(target.digest);
      const hash = createHash(algorithm);
      for await (const chunk of connection.fetch(target, { signal })) {
        hash.update(chunk);
        yield chunk;
      }
      const digest = `${algorithm}:${hash.digest('hex')}`;
      if (digest !== target.digest) {
        throw fail('data-loss', `${reference}: ${connection.host} sends bytes with digest ${digest}`);
      }
    },

    async push(reference, { digest: text, mediaType }, options = {}) {
      const content = contentClient(services);
      const digest = parseDigest(text);
      const { size } = await content.info(digest, options);
      const descriptor: LinkedDescriptor = { mediaType, digest, size, annotations: new Map(), urls: [] };
      await using opened = await open(reference, options);
      const read = (offset: number) => content.read(digest, BigInt(offset), options);
      return await opened.connection.push(descriptor, read, { signal: options.signal, top: true });
    },
  };
}

async function open(
  reference: string,
  { plainHttp, insecureTls, auth }: ObjectOptions,
): Promise<{ connection: RegistryConnection } & AsyncDisposable> {
  const [{ registryOpener }, { createTransport }] = await Promise.all([
    import('../../io/registry/connection.ts'),
    import('../../io/registry/transport.ts'),
  ]);
  const transport = createTransport();
  const connection = registryOpener({ transport, userAgent: 'troupe' })({
    ...{ reference, insecureTls },
    defaultScheme: plainHttp === true ? 'http' : undefined,
    credentials: auth === undefined ? undefined : () => auth,
  });
  return {
    connection,
    async [Symbol.asyncDispose]() {
      await connection[Symbol.asyncDispose]();
      await transport[Symbol.asyncDispose]();
    },
  };
}
