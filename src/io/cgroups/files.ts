// Reads the small files of cgroup directories (cgroups(7)).
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** What stands for "no limit" in the wire messages: the largest 64-bit number. */
export const unlimited = 0xffff_ffff_ffff_ffffn;

/** undefined when the file is not there, or cannot be read in this kernel. */
export function readText(directory: string, name: string): string | undefined {
  try {
    return readFileSync(join(directory, name), 'latin1');
  } catch {
    return undefined;
  }
}

/** One number; `max` is `unlimited`, a missing file 0. */
export function readNumber(directory: string, name: string): bigint {
  return numberOf(readText(directory, name)?.trim());
}

export function numberOf(text: string | undefined): bigint {
  if (text === 'max') return unlimited;
  return text !== undefined && /^\d+$/.test(text) ? BigInt.asUintN(64, BigInt(text)) : 0n;
}

/** Lines of a key and a number. */
export function readPairs(directory: string, name: string): Map<string, bigint> {
  const pairs = new Map<string, bigint>();
  for (const line of (readText(directory, name) ?? '').split('\n')) {
    const blank = line.indexOf(' ');
    if (blank > 0) pairs.set(line.slice(0, blank), numberOf(line.slice(blank + 1).trim()));
  }
  return pairs;
}

/** Sizes of huge pages that the directory has files for, as in `hugetlb.2MB.<name>`. */
export function hugePageSizes(directory: string, name: string): string[] {
  try {
    return readdirSync(directory).flatMap((file) => {
      const match = /^hugetlb\.([^.]+)\.(.+)$/.exec(file);
      return match?.[2] === name ? [match[1] as string] : [];
    });
  } catch {
    return [];
  }
}

/** Lines such as `mlx4_0 hca_handle=2 hca_object=2000`. */
export function readRdma(
  directory: string,
  name: string,
): { device: string; hcaHandles: number; hcaObjects: number }[] {
  const value = (field: string | undefined): number => {
    const text = field?.slice(field.indexOf('=') + 1);
    return text === 'max' ? 0xffff_ffff : Number(text ?? 0) >>> 0;
  };
  return (readText(directory, name) ?? '').split('\n').flatMap((line) => {
    const [device, ...fields] = line.trim().split(/\s+/);
    if (device === undefined || device === '') return [];
    const find = (key: string) => value(fields.find((field) => field.startsWith(`${key}=`)));
    return [{ device, hcaHandles: find('hca_handle'), hcaObjects: find('hca_object') }];
  });
}
