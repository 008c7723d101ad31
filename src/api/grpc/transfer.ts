// The Transfer service: two envelopes say what is to move where.
import type { TransferJob, Transfers } from '../../actors/transfer/protocol.ts';
import { unpackAny } from '../model/binary-stream.ts';
import { fail } from '../model/errors.ts';
import type { Any } from '../proto/gen/google/protobuf/any.ts';
import { TransferDefinition } from '../proto/gen/services/transfer/v1/transfer.ts';
import { ImageStore } from '../proto/gen/types/transfer/imagestore.ts';
import { ImageExportStream, ImageImportStream } from '../proto/gen/types/transfer/importexport.ts';
import { OCIRegistry } from '../proto/gen/types/transfer/registry.ts';
import { type BoundService, bindService } from './bind.ts';

export interface TransferDeps {
  readonly transfers: Transfers;
}

export function transferService({ transfers }: TransferDeps): BoundService {
  return bindService(TransferDefinition, {
    async transfer({ source, destination, options }, { namespace, lease, signal }) {
      if (source === undefined || destination === undefined) {
        throw fail('invalid-argument', 'a transfer needs a source and a destination');
      }
      const job = jobOf(source, destination);
      const progressStream = options?.progressStream ?? '';
      await transfers.run({ namespace, lease, job, progressStream }, signal);
      return {};
    },
  });
}

function jobOf(source: Any, destination: Any): TransferJob {
  const from = {
    registry: unpackAny(OCIRegistry, source),
    store: unpackAny(ImageStore, source),
    archive: unpackAny(ImageImportStream, source),
  };
  const to = {
    registry: unpackAny(OCIRegistry, destination),
    store: unpackAny(ImageStore, destination),
    archive: unpackAny(ImageExportStream, destination),
  };
  if (from.registry && to.store) return { kind: 'pull', source: from.registry, destination: to.store };
  if (from.store && to.registry) return { kind: 'push', source: from.store, destination: to.registry };
  if (from.archive && to.store) return { kind: 'import', source: from.archive, destination: to.store };
  if (from.store && to.archive) return { kind: 'export', source: from.store, destination: to.archive };
  if (from.store && to.store) return { kind: 'tag', source: from.store, destination: to.store };
  if (from.archive && to.archive) return { kind: 'echo', source: from.archive, destination: to.archive };
  throw fail('unimplemented', `unable to transfer from "${source.typeUrl}" to "${destination.typeUrl}"`);
}
