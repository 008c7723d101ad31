// When a container is to run: the labels by which clients ask for it, and what follows from them.

export const restartLabels = {
  /** `running` or `stopped`: what is wanted; without it nothing is done. */
  status: 'containerd.io/restart.status',
  policy: 'containerd.io/restart.policy',
  /** How often it was started again. */
  count: 'containerd.io/restart.count',
  explicitlyStopped: 'containerd.io/restart.explicitly-stopped',
  logUri: 'containerd.io/restart.loguri',
  /** Of old clients; no longer followed. */
  logPath: 'containerd.io/restart.logpath',
} as const;

export type Policy =
  | { readonly kind: 'no' }
  | { readonly kind: 'always' }
  | { readonly kind: 'unless-stopped' }
  /** `retriesMax` 0: without limit. */
  | { readonly kind: 'on-failure'; readonly retriesMax: number };

/** Undefined for a policy that nobody knows: such a container is never started. */
export function parsePolicy(text: string): Policy | undefined {
  switch (text) {
    case 'no':
      return { kind: 'no' };
    case '':
    case 'always':
      return { kind: 'always' };
    case 'unless-stopped':
      return { kind: 'unless-stopped' };
    case 'on-failure':
      return { kind: 'on-failure', retriesMax: 0 };
  }
  const retries = /^on-failure:(\d{1,9})$/.exec(text)?.[1];
  return retries === undefined ? undefined : { kind: 'on-failure', retriesMax: Number(retries) };
}

export type Labels = ReadonlyMap<string, string>;

export function countOf(labels: Labels): number {
  const count = Number(labels.get(restartLabels.count) ?? 0);
  return Number.isSafeInteger(count) && count >= 0 ? count : 0;
}

/** Whether a container that does not run is to be started; `exitStatus` 0 when it has no task. */
export function wantsStart(labels: Labels, exitStatus: number): boolean {
  const policy = parsePolicy(labels.get(restartLabels.policy) ?? '');
  switch (policy?.kind) {
    case 'always':
      return true;
    case 'unless-stopped':
      return !isTrue(labels.get(restartLabels.explicitlyStopped));
    case 'on-failure':
      return exitStatus !== 0 && (policy.retriesMax === 0 || countOf(labels) < policy.retriesMax);
    default:
      return false;
  }
}

/** A boolean as Go's clients write it. */
function isTrue(text: string | undefined): boolean {
  return text !== undefined && ['1', 't', 'T', 'true', 'TRUE', 'True'].includes(text);
}
