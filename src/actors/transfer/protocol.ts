// The face of transfers: something moves from a source to a destination, and whoever asked waits for it.
import type { Namespace } from '../../api/model/ids.ts';
import type { ImageStore } from '../../api/proto/gen/types/transfer/imagestore.ts';
import type {
  ImageExportStream,
  ImageImportStream,
} from '../../api/proto/gen/types/transfer/importexport.ts';
import type { OCIRegistry } from '../../api/proto/gen/types/transfer/registry.ts';

export type TransferJob =
  | { readonly kind: 'pull'; readonly source: OCIRegistry; readonly destination: ImageStore }
  | { readonly kind: 'push'; readonly source: ImageStore; readonly destination: OCIRegistry }
  | { readonly kind: 'import'; readonly source: ImageImportStream; readonly destination: ImageStore }
  | { readonly kind: 'export'; readonly source: ImageStore; readonly destination: ImageExportStream }
  | { readonly kind: 'tag'; readonly source: ImageStore; readonly destination: ImageStore }
  | { readonly kind: 'echo'; readonly source: ImageImportStream; readonly destination: ImageExportStream };

export interface TransferRequest {
  readonly namespace: Namespace;
  readonly lease: string | undefined;
  readonly job: TransferJob;
  /** Id of the stream that hears of the progress; empty for none. */
  readonly progressStream: string;
}

export interface Transfers {
  /** Resolves when everything is done. Aborting stops the work and undoes what is half-made. */
  run(request: TransferRequest, signal: AbortSignal): Promise<void>;
}

/** One actor per transfer, which ends with it. */
export interface TransferProtocol {
  run: { request: undefined; reply: void };
}
