// What a daemon must have after everything it has acknowledged, and what it may have after what it has not.

/** `<kind>|<namespace>|<id>`; a snapshot's id is `<snapshotter>/<key>`. */
export type Key = string;

/** Fields of a record as text. `*` matches anything; names that begin with `_` are the model's own notes. */
export type Data = Readonly<Record<string, string>>;

/** What an operation does to records: all of it, or nothing. */
export type Changes = ReadonlyMap<Key, Data | undefined>;

export type Kind =
  | 'namespace'
  | 'container'
  | 'image'
  | 'lease'
  | 'content'
  | 'snapshot'
  | 'sandbox'
  | 'mount';

export function keyOf(kind: Kind, namespace: string, id: string): Key {
  return `${kind}|${namespace}|${id}`;
}

export function partsOf(key: Key): { kind: Kind; namespace: string; id: string } {
  const [kind, namespace, ...id] = key.split('|');
  return { kind: kind as Kind, namespace: namespace ?? '', id: id.join('|') };
}

/** Labels in one order, without empty values, which the stores drop. */
export function labelsText(labels: ReadonlyMap<string, string> | Readonly<Record<string, string>>): string {
  const entries = labels instanceof Map ? [...labels] : Object.entries(labels);
  return JSON.stringify(entries.filter(([, value]) => value !== '').sort(([a], [b]) => (a < b ? -1 : 1)));
}

export function labelsOf(data: Data): Record<string, string> {
  const text = data['labels'] ?? '[]';
  return text === '*' ? {} : Object.fromEntries(JSON.parse(text) as [string, string][]);
}

/** Whether a record is what the model says. */
export function matches(expected: Data, actual: Data): boolean {
  const names = new Set([...Object.keys(expected), ...Object.keys(actual)].filter((name) => name[0] !== '_'));
  for (const name of names) {
    if (expected[name] !== '*' && expected[name] !== actual[name]) return false;
  }
  return true;
}

export interface Pending {
  readonly text: string;
  /** What the operation may come to, besides nothing. */
  readonly alternatives: readonly Changes[];
  /** Done in many steps, of which some may be done: all of them when this object is there. */
  readonly last?: Key | undefined;
}

/** A promise that the daemon has broken, with what happened to the object before. */
export class Violation extends Error {
  constructor(message: string, history: readonly string[] = []) {
    super(history.length === 0 ? message : `${message}\n  ${history.join('\n  ')}`);
    this.name = 'Violation';
  }
}

const historyLengthMax = 60;

export class Model {
  #objects = new Map<Key, Data>();
  #atRisk = new Set<Key>();
  readonly #pending = new Set<Pending>();
  readonly #history = new Map<Key, string[]>();
  readonly #beganMs = performance.now();

  get(key: Key): Data | undefined {
    return this.#objects.get(key);
  }

  get objects(): ReadonlyMap<Key, Data> {
    return this.#objects;
  }

  get pending(): ReadonlySet<Pending> {
    return this.#pending;
  }

  /** Whether a collection may have taken the object since it was last seen. */
  isAtRisk(key: Key): boolean {
    return this.#atRisk.has(key);
  }

  keys(kind: Kind, namespace: string): Key[] {
    const prefix = `${kind}|${namespace}|`;
    return [...this.#objects.keys()].filter((key) => key.startsWith(prefix));
  }

  begin(text: string, alternatives: readonly Changes[], last?: Key): Pending {
    const pending = { text, alternatives, last };
    this.#pending.add(pending);
    for (const key of keysOf(pending)) this.note(key, `begin ${text}`);
    this.#look();
    return pending;
  }

  /** The operation is over, with these changes. */
  settle(pending: Pending, changes: Changes, answer: string): void {
    this.#pending.delete(pending);
    for (const key of keysOf(pending)) this.note(key, `${answer} ${pending.text}`);
    for (const [key, data] of changes) this.#set(key, data);
    this.#look();
  }

  /** Seen just now. */
  seen(key: Key): void {
    this.#atRisk.delete(key);
    this.#look();
  }

  /** Something other than a collection may have taken it. */
  doubt(key: Key): void {
    this.#atRisk.add(key);
  }

  /** Changes notes of the model about an object that is there. */
  amend(key: Key, notes: Data): void {
    const data = this.#objects.get(key);
    if (data !== undefined) this.#objects.set(key, { ...data, ...notes });
  }

  /** Takes over what was found, after it was compared. Nothing is pending any more. */
  adopt(objects: ReadonlyMap<Key, Data>): void {
    this.#pending.clear();
    this.#objects = new Map(objects);
    this.#atRisk = new Set();
    this.#look();
  }

  /** Objects that roots reach whatever the pending operations come to. */
  protected(): Set<Key> {
    return reach(this.#candidates(), this.#atRisk);
  }

  note(key: Key, text: string): void {
    const lines = this.#history.get(key) ?? [];
    this.#history.set(key, lines);
    lines.push(`${(performance.now() - this.#beganMs).toFixed(1)} ms: ${text}`);
    if (lines.length > historyLengthMax) lines.shift();
  }

  noteAll(text: string): void {
    for (const key of this.#history.keys()) this.note(key, text);
  }

  violation(key: Key, message: string): Violation {
    return new Violation(`${key}: ${message}`, this.#history.get(key));
  }

  /** As `violation`, with the history of several objects. */
  violationOf(keys: readonly Key[], message: string): Violation {
    return new Violation(
      message,
      keys.flatMap((key) => [key, ...(this.#history.get(key) ?? []).map((line) => `  ${line}`)]),
    );
  }

  /** What refers to an object by the model, or may. */
  referrers(to: Key): Key[] {
    return [...this.#candidates()]
      .filter(([key, datas]) =>
        datas.some((data) => {
          const edges = data === undefined ? undefined : edgesOf(key, data);
          return edges?.strong.includes(to) || edges?.refs.includes(to);
        }),
      )
      .map(([key]) => key);
  }

  #set(key: Key, data: Data | undefined): void {
    if (data === undefined) {
      this.#objects.delete(key);
      this.#atRisk.delete(key);
    } else {
      if (!this.#objects.has(key)) this.#atRisk.delete(key);
      this.#objects.set(key, data);
    }
  }

  /** What nothing protects at this moment may be collected at this moment. */
  #look(): void {
    const all = this.#candidates();
    const kept = reach(all, this.#atRisk);
    for (const [key, candidates] of all) {
      if (isCollectible(key) && candidates.some((data) => data !== undefined) && !kept.has(key)) {
        this.#atRisk.add(key);
      }
    }
  }

  /** What each object may be now. */
  #candidates(): Map<Key, (Data | undefined)[]> {
    const found = new Map<Key, (Data | undefined)[]>();
    for (const [key, data] of this.#objects) found.set(key, [data]);
    for (const { alternatives } of this.#pending) {
      for (const changes of alternatives) {
        for (const [key, data] of changes) {
          const candidates = found.get(key) ?? [undefined];
          candidates.push(data);
          found.set(key, candidates);
        }
      }
    }
    return found;
  }
}

export function keysOf({ alternatives }: Pending): Set<Key> {
  return new Set(alternatives.flatMap((changes) => [...changes.keys()]));
}

export function isCollectible(key: Key): boolean {
  return key.startsWith('content|') || key.startsWith('snapshot|') || key.startsWith('mount|');
}

interface Edges {
  root: boolean;
  flat: boolean;
  /** Followed from flat leases too. */
  strong: Key[];
  refs: Key[];
  /** What keeps this object, other than by a reference of its own. */
  keptBy: Key[];
}

const refPrefix = 'containerd.io/gc.ref.';
const backPrefix = 'containerd.io/gc.bref.container';

/** Every operation looks at everything, so what a record says is read once. */
const edgesOfData = new WeakMap<Data, Edges>();

function edgesOf(key: Key, data: Data): Edges {
  const known = edgesOfData.get(data);
  if (known !== undefined) return known;
  const edges = readEdges(key, data);
  edgesOfData.set(data, edges);
  return edges;
}

function readEdges(key: Key, data: Data): Edges {
  const { kind, namespace } = partsOf(key);
  const labels = labelsOf(data);
  const edges: Edges = {
    root: false,
    flat: labels['containerd.io/gc.flat'] !== undefined,
    strong: [],
    refs: JSON.parse(data['_refs'] ?? '[]') as Key[],
    keptBy: [],
  };
  edges.root =
    isCollectible(key) || kind === 'namespace' ? labels['containerd.io/gc.root'] !== undefined : true;
  if (kind === 'image') edges.strong.push(keyOf('content', namespace, data['digest'] ?? ''));
  if (kind === 'container' && data['snapshotKey'] !== '') {
    edges.strong.push(keyOf('snapshot', namespace, `${data['snapshotter']}/${data['snapshotKey']}`));
  }
  if (kind === 'snapshot' && data['parent'] !== '') {
    const snapshotter = key.split('|')[2]?.split('/')[0];
    edges.strong.push(keyOf('snapshot', namespace, `${snapshotter}/${data['parent']}`));
  }
  if (kind === 'lease') {
    for (const resource of resourcesOf(data)) {
      if (resource.startsWith('content/')) edges.refs.push(keyOf('content', namespace, resource.slice(8)));
      else if (resource.startsWith('snapshots/'))
        edges.refs.push(keyOf('snapshot', namespace, resource.slice(10)));
    }
  }
  if (kind === 'mount') {
    edges.root = false;
    if (data['_lease'] !== undefined) edges.keptBy.push(keyOf('lease', namespace, data['_lease']));
    const keeper = labels[backPrefix];
    if (keeper !== undefined) edges.keptBy.push(keyOf('container', namespace, keeper));
    return edges;
  }
  for (const [name, value] of Object.entries(labels)) {
    if (!name.startsWith(refPrefix)) continue;
    const rest = name.slice(refPrefix.length);
    if (rest.startsWith('content.')) edges.refs.push(keyOf('content', namespace, value));
    else if (rest === 'mount') edges.refs.push(keyOf('mount', namespace, value));
    else if (rest.startsWith('snapshot.')) {
      edges.refs.push(keyOf('snapshot', namespace, `${rest.slice(9).split('/')[0]}/${value}`));
    }
  }
  return edges;
}

export function resourcesOf(data: Data): string[] {
  return JSON.parse(data['resources'] ?? '[]') as string[];
}

export function withResource(data: Data, resource: string, isThere = true): Data {
  const resources = new Set(resourcesOf(data));
  if (isThere) resources.add(resource);
  else resources.delete(resource);
  return { ...data, resources: JSON.stringify([...resources].sort()) };
}

/**
 * Marks as a collector does, over what holds for every candidate. What is at risk may be gone already, and then
 * protects nothing, whatever has come to refer to it since.
 */
function reach(
  candidates: ReadonlyMap<Key, readonly (Data | undefined)[]>,
  atRisk: ReadonlySet<Key>,
): Set<Key> {
  const edges = new Map<Key, Edges>();
  for (const [key, datas] of candidates) {
    let common: Edges | undefined;
    for (const data of datas) {
      const own: Edges =
        data === undefined
          ? { root: false, flat: false, strong: [], refs: [], keptBy: [] }
          : edgesOf(key, data);
      common =
        common === undefined
          ? own
          : {
              root: common.root && own.root,
              flat: common.flat || own.flat,
              strong: common.strong.filter((to) => own.strong.includes(to)),
              refs: common.refs.filter((to) => own.refs.includes(to)),
              keptBy: common.keptBy.filter((by) => own.keptBy.includes(by)),
            };
    }
    if (common !== undefined) edges.set(key, common);
  }
  const keeps = new Map<Key, Key[]>();
  for (const [key, { keptBy }] of edges) {
    for (const keeper of keptBy) keeps.set(keeper, [...(keeps.get(keeper) ?? []), key]);
  }
  const full = new Set<Key>();
  const flat = new Set<Key>();
  const walk = (from: Key, seen: Set<Key>) => {
    const stack = [from];
    for (let key = stack.pop(); key !== undefined; key = stack.pop()) {
      if (seen.has(key)) continue;
      seen.add(key);
      const found = atRisk.has(key) ? undefined : edges.get(key);
      if (found === undefined) continue;
      stack.push(...found.strong);
      if (seen === full) stack.push(...found.refs, ...(keeps.get(key) ?? []));
    }
  };
  for (const [key, { root, flat: isFlat, refs }] of edges) {
    if (!root) continue;
    if (key.startsWith('lease|') && isFlat) {
      for (const to of refs) walk(to, flat);
      for (const to of keeps.get(key) ?? []) walk(to, full);
    } else walk(key, full);
  }
  return new Set([...full, ...flat]);
}
