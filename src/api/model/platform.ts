// Platforms of images: how they are written, normalised, matched against a host, and ranked.
import type { Platform } from '../proto/gen/types/platform.ts';
import { fail } from './errors.ts';

/** What the host tells of itself, as `process.arch` and `process.platform` name it. */
export interface HostFacts {
  arch: string;
  platform: string;
}

const archOfNode: Readonly<Record<string, { architecture: string; variant?: string }>> = {
  x64: { architecture: 'amd64' },
  ia32: { architecture: '386' },
  arm64: { architecture: 'arm64' },
  arm: { architecture: 'arm', variant: 'v7' },
  ppc64: { architecture: 'ppc64le' },
  loong64: { architecture: 'loong64' },
};

const knownOs = new Set([
  ...['aix', 'android', 'darwin', 'dragonfly', 'freebsd', 'hurd', 'illumos', 'ios', 'js', 'linux'],
  ...['netbsd', 'openbsd', 'plan9', 'solaris', 'wasip1', 'windows', 'zos'],
]);
const knownArch = new Set([
  ...['386', 'amd64', 'arm', 'arm64', 'loong64', 'mips', 'mipsle', 'mips64', 'mips64le'],
  ...['ppc64', 'ppc64le', 'riscv64', 's390x', 'wasm'],
]);

export function platformOf(os: string, architecture: string, variant = ''): Platform {
  return { os, architecture, variant, osVersion: '', osFeatures: [] };
}

export function hostPlatform(host: HostFacts): Platform {
  const arch = archOfNode[host.arch] ?? { architecture: host.arch };
  return normalizePlatform(platformOf(host.platform, arch.architecture, arch.variant ?? ''));
}

/** The same platform by its usual names: `x86_64` is `amd64`, `aarch64` is `arm64`, `armhf` is `arm/v7`, ... */
export function normalizePlatform(p: Platform): Platform {
  let os = p.os.toLowerCase();
  if (os === 'macos') os = 'darwin';
  let architecture = p.architecture.toLowerCase();
  let variant = p.variant.toLowerCase();
  switch (architecture) {
    case 'i386':
      architecture = '386';
      variant = '';
      break;
    case 'x86_64':
    case 'x86-64':
    case 'amd64':
      architecture = 'amd64';
      if (variant === 'v1') variant = '';
      break;
    case 'aarch64':
    case 'arm64':
      architecture = 'arm64';
      if (variant === '8' || variant === 'v8' || variant === 'v8.0') variant = '';
      else if (variant === '9' || variant === 'v9.0') variant = 'v9';
      break;
    case 'armhf':
      architecture = 'arm';
      variant = 'v7';
      break;
    case 'armel':
      architecture = 'arm';
      variant = 'v6';
      break;
    case 'arm':
      if (variant === '' || variant === '7') variant = 'v7';
      else if (/^[568]$/.test(variant)) variant = `v${variant}`;
      break;
  }
  return { os, architecture, variant, osVersion: p.osVersion, osFeatures: [...p.osFeatures] };
}

export function formatPlatform(p: Platform): string {
  const parts = [p.os === '' ? 'unknown' : p.os, p.architecture, p.variant];
  return parts.filter((part) => part !== '').join('/');
}

/**
 * Reads `os`, `arch`, `os/arch` or `os/arch/variant`; what is missing comes from the host.
 * Throws `invalid-argument`.
 */
export function parsePlatform(text: string, host: Platform): Platform {
  const parts = text.split('/');
  const bad = (): Error => fail('invalid-argument', `platform "${text}" is not os[/arch[/variant]]`);
  if (parts.length > 3 || !parts.every((part) => /^[A-Za-z0-9_.-]+$/.test(part))) throw bad();
  const [first = '', second = '', third = ''] = parts;
  if (parts.length > 1) return normalizePlatform(platformOf(first, second, third));
  const asOs = normalizePlatform(platformOf(first, host.architecture, host.variant));
  if (knownOs.has(asOs.os)) return asOs;
  const asArch = normalizePlatform(platformOf(host.os, first));
  if (knownArch.has(asArch.architecture)) return asArch;
  throw fail('invalid-argument', `platform "${text}": neither an operating system nor an architecture`);
}

/** Platforms that run on `p`, the best first: `amd64/v3` takes v3, v2, v1 and 386; `arm/v7` takes v7, v6, v5. */
export function runnablePlatforms(p: Platform): Platform[] {
  const own = normalizePlatform(p);
  const of = (architecture: string, variant = ''): Platform => ({ ...own, architecture, variant });
  const list: Platform[] = [own];
  if (own.architecture === 'amd64') {
    const level = /^v([2-9])$/.exec(own.variant);
    for (let v = Number(level?.[1] ?? 1) - 1; v >= 1; v--) list.push(of('amd64', v === 1 ? '' : `v${v}`));
    list.push(of('386'));
  } else if (own.architecture === 'arm') {
    pushArm(list, Number(own.variant.slice(1)) - 1, of);
  } else if (own.architecture === 'arm64') {
    const level = /^v([89])(?:\.(\d+))?$/.exec(own.variant);
    const major = Number(level?.[1] ?? 8);
    const minor = Number(level?.[2] ?? 0);
    for (let m = minor - 1; m >= 0; m--) list.push(of('arm64', arm64Variant(major, m)));
    // Armv9.x includes Armv8.(x+5).
    if (major === 9) for (let m = minor + 5; m >= 0; m--) list.push(of('arm64', arm64Variant(8, m)));
    pushArm(list, 8, of);
  }
  return list;
}

function arm64Variant(major: number, minor: number): string {
  if (minor === 0) return major === 8 ? '' : `v${major}`;
  return `v${major}.${minor}`;
}

function pushArm(list: Platform[], from: number, of: (arch: string, variant: string) => Platform): void {
  for (let v = from; v >= 5; v--) list.push(of('arm', `v${v}`));
}

/** Place of a candidate in the order of preference, 0 the best; undefined when it does not run there. */
export type PlatformMatcher = (candidate: Platform) => number | undefined;

/** The platform and the lesser ones that it runs. */
export function matchRunnable(p: Platform): PlatformMatcher {
  return matchList(runnablePlatforms(p));
}

/** That platform and no other. */
export function matchStrict(p: Platform): PlatformMatcher {
  return matchList([normalizePlatform(p)]);
}

/** What any of the platforms runs, those of the first platform first. */
export function matchAny(platforms: readonly Platform[]): PlatformMatcher {
  return matchList(platforms.flatMap(runnablePlatforms));
}

function matchList(list: readonly Platform[]): PlatformMatcher {
  return (candidate) => {
    const c = normalizePlatform(candidate);
    const place = list.findIndex(
      (p) =>
        p.os === c.os &&
        p.architecture === c.architecture &&
        p.variant === c.variant &&
        c.osFeatures.every((feature) => p.osFeatures.includes(feature)),
    );
    return place < 0 ? undefined : place;
  };
}
