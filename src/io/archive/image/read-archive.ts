// Reads the tar stream of an image archive into a content store: every file becomes a blob, a few documents are kept
// in memory, and the links between files are remembered.
import { fail, wrap } from '../../../api/model/errors.ts';
import type { BlobInfo, BlobSink, ImageContent } from '../../../api/model/ports/image-content.ts';
import { cleanPath, quoted, toText } from '../bytes.ts';
import type { TarHeader } from '../tar-header.ts';
import { TarReader, type TarSink } from '../tar-reader.ts';

/** What `oci-layout` and `manifest.json` may have at most. */
export const archiveDocumentBytesMax = 20 * 1024 * 1024;
export const archiveEntriesMax = 100_000;
const nameBytesMax = 512;
const writeBytes = 1024 * 1024;

export interface ReadArchive {
  /** By path, without `./` and trailing slashes. */
  readonly blobs: ReadonlyMap<string, BlobInfo>;
  /** Path of a symlink to the path that it leads to. */
  readonly symlinks: ReadonlyMap<string, string>;
  readonly documents: ReadonlyMap<string, Buffer>;
  /** Paths of all regular files. */
  readonly paths: ReadonlySet<string>;
}

const documentNames: ReadonlySet<string> = new Set(['oci-layout', 'manifest.json']);

type Event =
  | { kind: 'begin'; path: string; sizeBytes: number }
  | { kind: 'data'; bytes: Buffer }
  | { kind: 'end'; path: string };

/**
 * Throws `invalid-argument` for a malformed archive, names that lead out of it, paths that come twice and too many
 * entries. What was written before stays: it belongs to nobody and goes with the lease.
 */
export async function readArchive(
  content: ImageContent,
  archive: AsyncIterable<Uint8Array>,
): Promise<ReadArchive> {
  const intake = new Intake(content);
  const events: Event[] = [];
  const symlinks = new Map<string, string>();
  const paths = new Set<string>();
  let left = 0;
  let entries = 0;
  const sink: TarSink = {
    begin(header) {
      if (++entries > archiveEntriesMax) {
        throw fail('invalid-argument', `the archive has more than ${archiveEntriesMax} entries`);
      }
      const path = pathOf(header);
      if (header.type === 'symlink') symlinks.set(path, targetOf(path, header));
      // Hard links are for file systems; what an image has is named by its digest.
      if (header.type !== 'file' || path === '') return;
      if (header.sparse !== undefined) {
        throw fail('invalid-argument', `file ${quoted(header.name)} of the archive is sparse`);
      }
      if (paths.has(path)) {
        throw fail('invalid-argument', `the archive has two files ${quoted(header.name)}`);
      }
      paths.add(path);
      events.push({ kind: 'begin', path, sizeBytes: header.sizeBytes });
    },
    data(chunk, from, to) {
      events.push({ kind: 'data', bytes: chunk.subarray(from, to) });
    },
    end(header) {
      const path = pathOf(header);
      if (header.type === 'file' && path !== '') events.push({ kind: 'end', path });
    },
  };
  const reader = new TarReader(sink);
  try {
    for await (const chunk of archive) {
      content.signal.throwIfAborted();
      reader.push(Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength));
      for (const event of events) await intake.take(event);
      events.length = 0;
      left += chunk.byteLength;
    }
    if (left === 0) throw fail('invalid-argument', 'the archive is empty');
    reader.finish();
  } catch (error) {
    await intake.abort();
    throw wrap('import', error);
  }
  return { blobs: intake.blobs, documents: intake.documents, symlinks, paths };
}

function pathOf(header: TarHeader): string {
  if (header.name.length > nameBytesMax) {
    throw fail('invalid-argument', `${quoted(header.name)} is longer than ${nameBytesMax} bytes`);
  }
  if (/(?:^|\/)\.\.(?:\/|$)/.test(header.name) || header.name.startsWith('/')) {
    throw fail('invalid-argument', `${quoted(header.name)} leads out of the archive`);
  }
  return toText(cleanPath(header.name));
}

function targetOf(path: string, header: TarHeader): string {
  if (header.linkName.length > nameBytesMax) {
    throw fail('invalid-argument', `${quoted(header.name)} has a link longer than ${nameBytesMax} bytes`);
  }
  const directory = path.slice(0, path.lastIndexOf('/') + 1);
  return toText(cleanPath(header.linkName.startsWith('/') ? header.linkName : directory + header.linkName));
}

/** Writes the files of the archive one after the other, each in large pieces of which one is on its way. */
class Intake {
  readonly blobs = new Map<string, BlobInfo>();
  readonly documents = new Map<string, Buffer>();
  readonly #content: ImageContent;
  #sink: BlobSink | undefined;
  #document: Buffer | undefined;
  #buffer: Buffer | undefined;
  #filled = 0;
  #left = 0;
  #writing: Promise<void> | undefined;

  constructor(content: ImageContent) {
    this.#content = content;
  }

  async take(event: Event): Promise<void> {
    if (event.kind === 'begin') await this.#begin(event.path, event.sizeBytes);
    else if (event.kind === 'data') await this.#data(event.bytes);
    else await this.#end(event.path);
  }

  async #begin(path: string, sizeBytes: number): Promise<void> {
    this.#left = sizeBytes;
    this.#filled = 0;
    this.#buffer = undefined;
    if (documentNames.has(path)) {
      if (sizeBytes > archiveDocumentBytesMax) {
        throw fail(
          'invalid-argument',
          `${path} has ${sizeBytes} bytes, more than ${archiveDocumentBytesMax}`,
        );
      }
      this.#document = Buffer.alloc(sizeBytes);
      return;
    }
    if (sizeBytes === 0) return;
    this.#sink = await this.#content.create({ ref: `tar-${path}`, sizeBytes });
  }

  async #data(bytes: Buffer): Promise<void> {
    if (this.#document !== undefined) {
      this.#filled += bytes.copy(this.#document, this.#filled);
      return;
    }
    for (let at = 0; at < bytes.length; ) {
      // A buffer of its own size, so that it can be handed on as it is.
      this.#buffer ??= Buffer.from(new ArrayBuffer(Math.min(writeBytes, this.#left)));
      const copied = bytes.copy(this.#buffer, this.#filled, at);
      at += copied;
      this.#left -= copied;
      this.#filled += copied;
      if (this.#filled === this.#buffer.length) await this.#flush();
    }
  }

  async #flush(): Promise<void> {
    const buffer = this.#buffer;
    this.#buffer = undefined;
    this.#filled = 0;
    if (buffer === undefined) return;
    await this.#writing;
    this.#writing = this.#sink?.write(buffer);
    // Its failure is told by whoever waits next.
    this.#writing?.catch(() => {});
  }

  async #end(path: string): Promise<void> {
    if (this.#document !== undefined) {
      this.documents.set(path, this.#document);
      this.#document = undefined;
      return;
    }
    await this.#flush();
    await this.#writing;
    this.#writing = undefined;
    const blob = await this.#sink?.commit();
    this.#sink = undefined;
    if (blob !== undefined) this.blobs.set(path, blob);
  }

  async abort(): Promise<void> {
    await this.#writing?.catch(() => {});
    await this.#sink?.abort();
  }
}
