// Images as an archive: an OCI layout that is a docker archive as well, sorted and without times, so that the same
// images make the same bytes.
import { createHash } from 'node:crypto';
import { fail } from '../../../api/model/errors.ts';
import { digestAlgorithm, digestHex } from '../../../api/model/ids.ts';
import { ranked, walkImage } from '../../../api/model/image-tree.ts';
import { annotation } from '../../../api/model/import-names.ts';
import { label } from '../../../api/model/labels.ts';
import {
  blobKind,
  isNonDistributable,
  type LinkedDescriptor,
  parseManifest,
} from '../../../api/model/oci.ts';
import type { ImageContent } from '../../../api/model/ports/image-content.ts';
import type { ExportOptions, NamedImage } from '../../../api/model/ports/image-engine.ts';
import { familiarReference, normalizeReference } from '../../registry/reference.ts';
import { encodeEntry, paddingBytes } from '../tar-writer.ts';
import { descriptorJson, documentLoader, goJson } from './documents.ts';

const endBytes = 1024;
const recordsMax = 200_000;

interface Entry {
  readonly name: string;
  readonly mode: number;
  readonly bytes?: Uint8Array;
  /** Of the content store. */
  readonly blob?: LinkedDescriptor;
}

/** A manifest of manifest.json, with the images that lead to it. */
interface Listed {
  readonly descriptor: LinkedDescriptor;
  readonly names: string[];
}

/**
 * The bytes of an archive of `images`. Throws `not-found` for blobs that are missing and platforms that an image does
 * not have, `invalid-argument` for what is no image, `data-loss` for a blob that is not what its digest says.
 */
export async function* exportImages(
  content: ImageContent,
  images: readonly NamedImage[],
  options: ExportOptions,
): AsyncGenerator<Uint8Array, void, undefined> {
  const plan = await new Planner(content, options).plan(images);
  for (const entry of plan) {
    content.signal.throwIfAborted();
    yield* writeEntry(content, entry);
  }
  yield Buffer.alloc(endBytes);
}

class Planner {
  readonly #content: ImageContent;
  readonly #options: ExportOptions;
  readonly #entries = new Map<string, Entry>();
  readonly #listed = new Map<string, Listed>();
  /** Index digest to the digest of the manifest that stands for it in manifest.json; empty for none. */
  readonly #resolved = new Map<string, string>();
  readonly #load;

  constructor(content: ImageContent, options: ExportOptions) {
    this.#content = content;
    this.#options = options;
    this.#load = documentLoader(content);
  }

  async plan(images: readonly NamedImage[]): Promise<Entry[]> {
    const tops: LinkedDescriptor[] = [];
    for (const { name, target } of images) {
      const top = { ...target, annotations: await this.#annotations(name, target) };
      tops.push(top);
      const kind = blobKind(target.mediaType);
      if (kind === 'manifest') {
        if (!this.#listed.has(target.digest)) {
          await this.#addTree(target);
          this.#listed.set(target.digest, { descriptor: target, names: [] });
        }
        this.#name(target.digest, name);
      } else if (kind === 'index') {
        if (!this.#resolved.has(target.digest)) {
          this.#resolved.set(target.digest, await this.#addIndex(target));
        }
        this.#name(this.#resolved.get(target.digest)!, name);
      } else {
        throw fail(
          'invalid-argument',
          `${name}: "${target.mediaType}" is no image: only manifests can be exported`,
        );
      }
    }
    this.#add({ name: 'oci-layout', mode: 0o444, bytes: goJson({ imageLayoutVersion: '1.0.0' }) });
    const index = { schemaVersion: 2, manifests: tops.map(descriptorJson) };
    this.#add({ name: 'index.json', mode: 0o644, bytes: goJson(index) });
    if (this.#options.skipManifestJson !== true && this.#listed.size > 0) {
      this.#add({ name: 'manifest.json', mode: 0o644, bytes: await this.#dockerManifest() });
    }
    // Names are ASCII: their order as text is that of their bytes.
    return [...this.#entries.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
  }

  async #annotations(name: string, target: LinkedDescriptor): Promise<Map<string, string>> {
    const annotations = new Map(target.annotations);
    const info = await this.#content.info(target.digest);
    for (const [key, value] of info?.labels ?? []) {
      if (key.startsWith(label.distributionSource)) annotations.set(key, value);
    }
    if (name === '') return annotations;
    annotations.set(annotation.imageName, name);
    annotations.set(annotation.refName, referenceObject(name));
    return annotations;
  }

  #name(digest: string, name: string): void {
    if (name !== '') this.#listed.get(digest)?.names.push(name);
  }

  /** Adds what of an index is wanted; answers the digest of its best manifest, empty when none was asked for. */
  async #addIndex(target: LinkedDescriptor): Promise<string> {
    const { matches, allPlatforms = false } = this.#options;
    let fitting: readonly LinkedDescriptor[] = [];
    await walkImage(target, {
      load: this.#load,
      ...this.#onMissing,
      choose: async (parent, children) => {
        if (parent.digest !== target.digest) return this.#present(parent, children);
        fitting = matches === undefined ? [] : ranked(children, matches);
        if (matches !== undefined && !allPlatforms && fitting.length === 0) {
          throw fail('not-found', `${target.digest}: no manifest for the wanted platform`);
        }
        return matches === undefined || allPlatforms ? children : fitting;
      },
      onDocument: ({ descriptor }) => this.#addBlob(descriptor),
      onBlob: (descriptor) => this.#addBlob(descriptor),
    });
    for (const best of fitting) {
      if (blobKind(best.mediaType) !== 'manifest' || !(await this.#complete(best))) continue;
      if (!this.#listed.has(best.digest)) this.#listed.set(best.digest, { descriptor: best, names: [] });
      return best.digest;
    }
    return '';
  }

  async #addTree(target: LinkedDescriptor): Promise<void> {
    await walkImage(target, {
      load: this.#load,
      ...this.#onMissing,
      choose: (parent, children) => this.#present(parent, children),
      onDocument: ({ descriptor }) => this.#addBlob(descriptor),
      onBlob: (descriptor) => this.#addBlob(descriptor),
    });
  }

  get #onMissing(): { onMissing?: () => void } {
    return this.#options.skipMissing === true ? { onMissing: () => {} } : {};
  }

  /** A manifest of which something is missing travels alone, where that is allowed. */
  async #present(
    parent: LinkedDescriptor,
    children: readonly LinkedDescriptor[],
  ): Promise<readonly LinkedDescriptor[]> {
    if (this.#options.skipMissing !== true || blobKind(parent.mediaType) !== 'manifest') return children;
    for (const child of children) {
      if (!this.#skipped(child) && (await this.#content.info(child.digest)) === undefined) return [];
    }
    return children;
  }

  async #complete(manifest: LinkedDescriptor): Promise<boolean> {
    if (this.#options.skipMissing !== true) return true;
    const entry = this.#entries.get(blobPath(manifest));
    if (entry === undefined) return false;
    const { config } = parseManifest(await this.#load(manifest), `manifest ${manifest.digest}`);
    return this.#entries.has(blobPath(config));
  }

  #skipped({ mediaType }: LinkedDescriptor): boolean {
    return this.#options.skipNonDistributable === true && isNonDistributable(mediaType);
  }

  async #addBlob(descriptor: LinkedDescriptor): Promise<void> {
    if (this.#skipped(descriptor)) return;
    // Found out before anything is sent: half an archive helps nobody.
    const info = await this.#content.info(descriptor.digest);
    if (info === undefined)
      throw fail('not-found', `content ${descriptor.digest}: the image is not complete here`);
    const algorithm = digestAlgorithm(descriptor.digest);
    this.#add({ name: 'blobs/', mode: 0o755 });
    this.#add({ name: `blobs/${algorithm}/`, mode: 0o755 });
    this.#add({
      name: blobPath(descriptor),
      mode: 0o444,
      blob: { ...descriptor, size: BigInt(info.sizeBytes) },
    });
  }

  #add(entry: Entry): void {
    if (this.#entries.has(entry.name)) return;
    if (this.#entries.size >= recordsMax) {
      throw fail('resource-exhausted', `an archive of more than ${recordsMax} entries`);
    }
    this.#entries.set(entry.name, entry);
  }

  async #dockerManifest(): Promise<Buffer> {
    const list: unknown[] = [];
    for (const { descriptor, names } of this.#listed.values()) {
      const manifest = parseManifest(await this.#load(descriptor), `manifest ${descriptor.digest}`);
      list.push({
        Config: blobPath(manifest.config),
        RepoTags:
          names.length === 0 ? null : names.map((name) => familiarReference(normalizeReference(name))),
        Layers: manifest.layers.map(blobPath),
      });
    }
    return goJson(list);
  }
}

function blobPath({ digest }: LinkedDescriptor): string {
  return `blobs/${digestAlgorithm(digest)}/${digestHex(digest)}`;
}

async function* writeEntry(content: ImageContent, entry: Entry): AsyncGenerator<Uint8Array, void, undefined> {
  const { name, mode, bytes, blob } = entry;
  const sizeBytes = bytes?.byteLength ?? Number(blob?.size ?? 0n);
  const type = name.endsWith('/') ? 'directory' : 'file';
  yield encodeEntry({ type, name, mode, uid: 0, gid: 0, sizeBytes, mtimeSeconds: 0 });
  if (bytes !== undefined) yield bytes;
  else if (blob !== undefined) yield* verified(content, blob);
  const padding = paddingBytes(sizeBytes);
  if (padding > 0) yield Buffer.alloc(padding);
}

/** An archive must not spread what a disk has spoiled. */
async function* verified(
  content: ImageContent,
  { digest, size }: LinkedDescriptor,
): AsyncGenerator<Uint8Array, void, undefined> {
  const hash = createHash(digestAlgorithm(digest));
  let left = Number(size);
  for await (const chunk of content.read(digest)) {
    hash.update(chunk);
    left -= chunk.byteLength;
    if (left < 0) break;
    yield chunk;
  }
  const actual = `${digestAlgorithm(digest)}:${hash.digest('hex')}`;
  if (left !== 0 || actual !== digest) {
    throw fail('data-loss', `content ${digest}: the store has other bytes (digest ${actual})`);
  }
}

/** What of a name the index of an archive says: the tag, or all of a name that has none. */
function referenceObject(name: string): string {
  const path = name.slice(name.indexOf('/') + 1);
  const start = path.search(/[:@]/);
  return start < 0 || path[start] === '@' ? name : path.slice(start + 1);
}
