// Lists of a namespace's records as they go to the wire, kept while nothing changes and somebody asks: clients list over
// and over, and reading thousands of records from the store takes longer than sending them.
import type { Filter } from '../model/filter.ts';
import type { Visit } from '../model/ports/store.ts';
import { type FieldPlaces, recordFields } from '../model/wire-fields.ts';
import { Encoded } from './bind.ts';
import { framePrefixBytes, writePrefix } from './frame.ts';
import { FramedResponse } from './pool.ts';
import { fieldOneBytes, listInFieldOne, putHead } from './records.ts';

/** A longer list is read anew each time. */
const listBytesMax = 16 * 1024 * 1024;
/** Of all lists together; the one that was asked for longest ago goes first. */
const keptBytesMax = 32 * 1024 * 1024;
/** Without a request for so long, all are given back. */
const keptMs = 5000;
const namespacesMax = 64;
const firstBytes = 65_536;
const copiedBytesMax = 4096;

export interface ListSource {
  /** Another number whenever the records may have changed; undefined when nobody can tell. */
  version(): number | undefined;
  /** Calls `visit` with each record of a namespace, in order. */
  each(namespace: string, visit: Visit): void;
}

type Allocate = (messageBytes: number) => Encoded;

export class KeptLists {
  readonly #source: ListSource;
  readonly #places: FieldPlaces;
  /** Those that were asked for last come last. */
  readonly #lists = new Map<string, KeptList>();
  #timer: NodeJS.Timeout | undefined;

  constructor(source: ListSource, places: FieldPlaces) {
    this.#source = source;
    this.#places = places;
  }

  /** The response with the records of a namespace that `filter` keeps. */
  answer(namespace: string, filter: Filter, allocate: Allocate): Encoded {
    const list = this.#listOf(namespace);
    if (list.lengthBytes <= listBytesMax) list.refresh(this.#source, namespace);
    const answer =
      list.lengthBytes > listBytesMax
        ? this.#readMatching(list, namespace, filter)
        : filter.all
          ? list.respond()
          : list.matching(filter, this.#places, allocate);
    this.#giveBack();
    return answer;
  }

  /** Bytes of the lists that are kept. */
  get keptBytes(): number {
    let sum = 0;
    for (const list of this.#lists.values()) sum += list.keptBytes;
    return sum;
  }

  #listOf(namespace: string): KeptList {
    const list = this.#lists.get(namespace) ?? new KeptList();
    this.#lists.delete(namespace);
    this.#lists.set(namespace, list);
    return list;
  }

  #readMatching(list: KeptList, namespace: string, filter: Filter): Encoded {
    const fields = recordFields(this.#places);
    const records: Buffer[] = [];
    let lengthBytes = 0;
    this.#source.each(namespace, (bytes, recordBytes) => {
      lengthBytes += fieldOneBytes(recordBytes);
      if (filter.all || filter.matches(fields.of(bytes, 0, recordBytes))) {
        records.push(Buffer.from(bytes.subarray(0, recordBytes)));
      }
    });
    list.lengthBytes = lengthBytes;
    return listInFieldOne(records);
  }

  #giveBack(): void {
    let left = this.keptBytes;
    for (const [namespace, list] of this.#lists) {
      if (left <= keptBytesMax && this.#lists.size <= namespacesMax) break;
      left -= list.keptBytes;
      this.#lists.delete(namespace);
    }
    if (this.#timer === undefined) {
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        this.#lists.clear();
      }, keptMs).unref();
    } else this.#timer.refresh();
  }
}

/** The list of one namespace: a frame of gRPC, with room behind it for a list that grows. */
class KeptList {
  #backing: Buffer = Buffer.alloc(0);
  #version: number | undefined;
  /** Responses that are on their way out of this memory. */
  #sending = 0;
  /** What it took when it was read last; beyond the limit it is not kept. */
  lengthBytes = 0;

  get keptBytes(): number {
    return this.#backing.length;
  }

  refresh(source: ListSource, namespace: string): void {
    const version = source.version();
    if (version !== undefined && version === this.#version) return;
    this.#version = undefined;
    // What is being sent must stay as it is.
    if (this.#sending > 0) this.#renew(this.#backing.length);
    let at = framePrefixBytes;
    source.each(namespace, (bytes, recordBytes) => {
      const end = at + fieldOneBytes(recordBytes);
      if (end - framePrefixBytes <= listBytesMax) {
        if (end > this.#backing.length) this.#grow(at, end);
        bytes.copy(this.#backing, putHead(this.#backing, at, recordBytes), 0, recordBytes);
      }
      at = end;
    });
    this.lengthBytes = at - framePrefixBytes;
    if (this.lengthBytes > listBytesMax) this.#renew(0);
    else if (this.lengthBytes > 0) writePrefix(this.#backing, this.lengthBytes);
    this.#version = version;
  }

  respond(): Encoded {
    const end = framePrefixBytes + this.lengthBytes;
    // Not worth a frame of its own.
    if (this.lengthBytes <= copiedBytesMax) {
      return new Encoded(Uint8Array.prototype.slice.call(this.#backing, framePrefixBytes, end));
    }
    return new KeptResponse(this.#backing.subarray(0, end), this);
  }

  /** To be called when the memory is handed to a stream; the result, once it has been sent from there. */
  lend(): () => void {
    const backing = this.#backing;
    this.#sending++;
    return () => {
      if (this.#backing === backing) this.#sending--;
    };
  }

  /** Records that stand side by side are copied together. */
  matching(filter: Filter, places: FieldPlaces, allocate: Allocate): Encoded {
    const fields = recordFields(places);
    const bytes = this.#backing;
    const end = framePrefixBytes + this.lengthBytes;
    /** Beginnings and ends. */
    const runs: number[] = [];
    let matchingBytes = 0;
    for (let at = framePrefixBytes, next = at; at < end; at = next) {
      let start = at + 1;
      let recordBytes = 0;
      for (let shift = 0, more = true; more; shift += 7) {
        const byte = bytes[start++] as number;
        recordBytes += (byte & 0x7f) << shift;
        more = byte > 0x7f;
      }
      next = start + recordBytes;
      if (!filter.matches(fields.of(bytes, start, next))) continue;
      matchingBytes += next - at;
      if (runs.at(-1) === at) runs[runs.length - 1] = next;
      else runs.push(at, next);
    }
    if (matchingBytes === this.lengthBytes) return this.respond();
    const answer = allocate(matchingBytes);
    for (let i = 0, to = 0; i < runs.length; i += 2) {
      const run = bytes.subarray(runs[i], runs[i + 1]);
      answer.bytes.set(run, to);
      to += run.length;
    }
    return answer;
  }

  #renew(sizeBytes: number): void {
    this.#backing = Buffer.allocUnsafeSlow(sizeBytes);
    this.#sending = 0;
  }

  /** Room for `neededBytes` and some more, with the first `keptBytes` as they are. */
  #grow(keptBytes: number, neededBytes: number): void {
    const old = this.#backing;
    this.#renew(Math.max(firstBytes, neededBytes + (neededBytes >> 3)));
    old.copy(this.#backing, 0, 0, keptBytes);
  }
}

/** Sent from where it is kept. */
class KeptResponse extends FramedResponse {
  readonly #frame: Buffer;
  readonly #list: KeptList;
  #giveBack: (() => void) | undefined;

  constructor(frame: Buffer, list: KeptList) {
    super(frame.subarray(framePrefixBytes));
    this.#frame = frame;
    this.#list = list;
  }

  hand(): Buffer {
    this.#giveBack = this.#list.lend();
    return this.#frame;
  }

  /** After an error the stream may still hold the memory: it is not written to again then. */
  readonly onSent = (error?: Error | null): void => {
    if (error === undefined || error === null) this.#giveBack?.();
  };
}
