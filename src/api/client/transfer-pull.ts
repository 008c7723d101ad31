// A pull that the daemon does: one call, with streams for its progress and for credentials beside it.
import { packAny } from '../model/binary-stream.ts';
import { codeOf } from '../model/errors.ts';
import { blobKind } from '../model/oci.ts';
import type { CredentialsSource } from '../model/ports/registry.ts';
import type { Platform } from '../proto/gen/types/platform.ts';
import { ImageStore } from '../proto/gen/types/transfer/imagestore.ts';
import type { Progress } from '../proto/gen/types/transfer/progress.ts';
import { OCIRegistry } from '../proto/gen/types/transfer/registry.ts';
import type { Services } from './connection.ts';
import type { PullOptions, PullProgress } from './pull.ts';
import { credentialsStream, progressStream } from './streams.ts';

const statusOf: Readonly<Record<string, PullProgress['status']>> = {
  waiting: 'waiting',
  downloading: 'downloading',
  uploading: 'downloading',
  complete: 'downloaded',
  'already exists': 'exists',
  extracting: 'extracting',
  extracted: 'extracted',
};

/** Whether the daemon can be asked for it: what only this side can do is done by this side. */
export function canTransfer(options: PullOptions): boolean {
  return options.registry === undefined && options.hosts === undefined && options.insecureTls !== true;
}

/** Leaves the image's record too. False when the daemon has no transfers, or not for this snapshotter. */
export async function pullByTransfer(
  services: Services,
  name: string,
  platform: Platform,
  snapshotter: string,
  options: PullOptions & { lease: string },
): Promise<boolean> {
  const { auth, onProgress, signal, lease } = options;
  const source: CredentialsSource | undefined = typeof auth === 'object' ? () => auth : auth;
  await using stack = new AsyncDisposableStack();
  try {
    const progress =
      onProgress === undefined ? undefined : stack.use(await progressStream(services, teller(onProgress)));
    const creds = source === undefined ? undefined : stack.use(await credentialsStream(services, source));
    await services.transfer.transfer(
      {
        source: packAny(
          OCIRegistry,
          OCIRegistry.fromPartial({
            reference: name,
            resolver: {
              authStream: creds?.id ?? '',
              hostDir: options.hostsDirectory ?? '',
              defaultScheme: options.plainHttp === true ? 'http' : '',
            },
          }),
        ),
        destination: packAny(
          ImageStore,
          ImageStore.fromPartial({
            name,
            labels: new Map(options.labels),
            platforms: [platform],
            manifestLimit: 1,
            unpacks: options.unpack === false ? [] : [{ platform, snapshotter }],
          }),
        ),
        options: { progressStream: progress?.id ?? '' },
      },
      { signal, lease, deadlineMs: Number.POSITIVE_INFINITY },
    );
    await progress?.finish();
    return true;
  } catch (error) {
    if (isWithoutTransfers(error)) return false;
    throw error;
  }
}

/** Whether the daemon is of a release before there were transfers. */
export function isWithoutTransfers(error: unknown): boolean {
  return (
    codeOf(error) === 'unimplemented' && /unknown (service|method)|Method not found/i.test(String(error))
  );
}

/** The daemon samples: steps that were too short for that are told when it is known that they are over. */
export function teller(onProgress: (one: PullProgress) => void): (progress: Progress) => void {
  const fetched = new Set<string>();
  return ({ event, desc, progress, total }) => {
    const status = Object.hasOwn(statusOf, event) ? statusOf[event] : undefined;
    if (status === undefined || desc === undefined) return;
    const { digest } = desc;
    const one = { digest, kind: blobKind(desc.mediaType), totalBytes: Number(total) };
    const isLater = status === 'extracting' || status === 'extracted';
    if (isLater && !fetched.has(digest)) {
      onProgress({ ...one, status: 'downloaded', offsetBytes: one.totalBytes });
    }
    if (isLater || status === 'downloaded' || status === 'exists') fetched.add(digest);
    onProgress({ ...one, status, offsetBytes: Number(progress) });
  };
}
