// What refers to what: the nodes of the collector's graph, and the edges that records and their labels make.
import { parseDurationNs } from '../../../api/model/duration.ts';
import { parseRfc3339 } from '../../../api/model/time.ts';

/** `<kind>\0<namespace>\0<id>`; snapshots have `<snapshotter>\0<key>` as id. References never cross namespaces. */
export type Node = string;

export type NodeKind =
  | 'content'
  | 'snapshot'
  | 'container'
  | 'image'
  | 'lease'
  | 'ingest'
  | 'sandbox'
  | 'mount'
  | 'stream';

export function nodeOf(kind: NodeKind, namespace: string, ...id: string[]): Node {
  return [kind, namespace, ...id].join('\0');
}

export function nodeParts(node: Node): { kind: NodeKind; namespace: string; id: string[] } {
  const [kind, namespace, ...id] = node.split('\0');
  return { kind: kind as NodeKind, namespace: namespace as string, id };
}

export const gcPrefix = 'containerd.io/gc.';
const rootKey = `${gcPrefix}root`;
const usedAtKey = `${gcPrefix}cond.value-usedat`;

/** An edge to `target` that exists while one of the conditions holds. */
export interface ConditionalReference {
  readonly target: Node;
  readonly conditions: readonly string[];
}

export interface LabelReferences {
  /** Carries `gc.root`. */
  root: boolean;
  refs: Node[];
  /** Nodes that keep this one: back references. */
  keptBy: Node[];
  conditional: ConditionalReference[];
  /** When it was last used, nanoseconds since the epoch. */
  usedAtNs: bigint | undefined;
}

/** `rest` is what follows the kind in a key: nothing, or a suffix that starts with a dot or a slash. */
function isSuffix(rest: string): boolean {
  return rest === '' || rest.startsWith('.') || rest.startsWith('/');
}

/** Containers are roots anyway: only back references name them. */
const referredKinds = ['content', 'image', 'mount', 'stream'] as const;
const keepingKinds = ['content', 'image', 'container'] as const;

/** The node that `<kind...>` and a label's value name, or undefined when the key is none of ours. */
function target(
  namespace: string,
  name: string,
  value: string,
  kinds: readonly NodeKind[],
): Node | undefined {
  for (const kind of kinds) {
    if (name.startsWith(kind) && isSuffix(name.slice(kind.length))) return nodeOf(kind, namespace, value);
  }
  if (name.startsWith('snapshot.')) {
    const rest = name.slice('snapshot.'.length);
    const slash = rest.indexOf('/');
    const snapshotter = slash < 0 ? rest : rest.slice(0, slash);
    return snapshotter === '' ? undefined : nodeOf('snapshot', namespace, snapshotter, value);
  }
  return undefined;
}

/** The references that the labels of an object in `namespace` make. */
export function labelReferences(namespace: string, labels: ReadonlyMap<string, string>): LabelReferences {
  const found: LabelReferences = { root: false, refs: [], keptBy: [], conditional: [], usedAtNs: undefined };
  for (const [key, value] of labels) {
    if (!key.startsWith(gcPrefix)) continue;
    const rest = key.slice(gcPrefix.length);
    if (key === rootKey) found.root = true;
    else if (key === usedAtKey) found.usedAtNs = parseRfc3339(value);
    else if (rest.startsWith('ref.')) {
      const node = target(namespace, rest.slice('ref.'.length), value, referredKinds);
      if (node !== undefined) found.refs.push(node);
    } else if (rest.startsWith('bref.')) {
      const node = target(namespace, rest.slice('bref.'.length), value, keepingKinds);
      if (node !== undefined) found.keptBy.push(node);
    } else if (rest.startsWith('cond.snapshot.')) {
      const pipe = value.indexOf('|');
      if (pipe < 0) continue;
      const node = target(namespace, rest.slice('cond.'.length), value.slice(pipe + 1), []);
      if (node !== undefined)
        found.conditional.push({ target: node, conditions: value.slice(0, pipe).split(',') });
    }
  }
  return found;
}

/** Whether `usedat<DUR` or `usedat>DUR` holds for something last used at `usedAtNs`. */
export function conditionHolds(condition: string, usedAtNs: bigint | undefined, nowNs: bigint): boolean {
  const m = /^usedat([<>])(.+)$/.exec(condition.trim());
  if (m === null || usedAtNs === undefined) return false;
  const durationNs = parseDurationNs(m[2] as string);
  if (durationNs === undefined) return false;
  const ageNs = nowNs - usedAtNs;
  return m[1] === '<' ? ageNs < durationNs : ageNs > durationNs;
}

/** Whether a `gc.expire` label lies strictly in the past; none, or one that cannot be parsed, never does. */
export function expired(value: string | undefined, nowNs: bigint): boolean {
  if (value === undefined) return false;
  const at = parseRfc3339(value);
  return at !== undefined && at < nowNs;
}
