// Reads the wire contract (test/fixtures/contract/*.txt) into one flat table that can be compared line by line.

/** One line per fact of the wire, for example `field containerd.types.Mount 1 type string`. */
export type Facts = Set<string>;

const filePattern = /^file (\S+) {2}package (\S+) {2}syntax proto3$/;
const rpcPattern = /^ {2}rpc (\w+)\((stream )?([\w.]+)\) -> (stream )?([\w.]+)$/;
const messagePattern = /^message ([\w.]+)( \(empty\))?$/;
const fieldPattern = /^ {2}(\d+) (\w+) (?:(repeated|optional) )?(map<\w+,[\w.]+>|[\w.]+)( \(deprecated\))?$/;
const enumPattern = /^enum ([\w.]+): (.+)$/;
const scalars = new Set([
  'double',
  'float',
  'int32',
  'int64',
  'uint32',
  'uint64',
  'sint32',
  'sint64',
  'fixed32',
  'fixed64',
  'sfixed32',
  'sfixed64',
  'bool',
  'string',
  'bytes',
]);

export const fact = {
  file: (path: string, pkg: string): string => `file ${path} package ${pkg}`,
  service: (name: string): string => `service ${name}`,
  rpc: (
    service: string,
    name: string,
    input: string,
    clientStreams: boolean,
    output: string,
    serverStreams: boolean,
  ) =>
    `rpc ${service}/${name}(${clientStreams ? 'stream ' : ''}${input}) -> ${serverStreams ? 'stream ' : ''}${output}`,
  message: (name: string, file: string): string => `message ${name} in ${file}`,
  field: (
    message: string,
    number: number,
    name: string,
    label: string,
    type: string,
    deprecated: boolean,
  ): string => `field ${message} ${number} ${name} ${label}${type}${deprecated ? ' deprecated' : ''}`,
  enumValue: (name: string, value: string, number: number): string => `enum ${name} ${value}=${number}`,
};

/**
 * Parses contract text. A type name without a dot, or one that names a message of the same file, is relative to
 * that file's package; the result has full names only. A line of no known form throws.
 */
export function parseContract(text: string): Facts {
  const facts: Facts = new Set();
  let file = '';
  let pkg = '';
  let message = '';
  let service = '';
  const lines = text.split('\n');
  const local = localNames(lines);
  const full = (type: string): string => {
    if (scalars.has(type)) return type;
    return local.has(`${pkg}.${type}`) ? `${pkg}.${type}` : type;
  };
  lines.forEach((line, index) => {
    if (line === '' || line.startsWith('#')) return;
    let m: RegExpExecArray | null;
    if ((m = filePattern.exec(line))) {
      file = m[1]!;
      pkg = m[2]!;
      facts.add(fact.file(file, pkg));
    } else if (line.startsWith('service ')) {
      service = `${pkg}.${line.slice(8)}`;
      facts.add(fact.service(service));
    } else if ((m = rpcPattern.exec(line))) {
      facts.add(fact.rpc(service, m[1]!, full(m[3]!), m[2] !== undefined, full(m[5]!), m[4] !== undefined));
    } else if ((m = messagePattern.exec(line))) {
      message = `${pkg}.${m[1]}`;
      facts.add(fact.message(message, file));
    } else if ((m = fieldPattern.exec(line))) {
      const label = m[3] === undefined ? '' : `${m[3]} `;
      const map = /^map<(\w+),([\w.]+)>$/.exec(m[4]!);
      const type = map === null ? full(m[4]!) : `map<${map[1]},${full(map[2]!)}>`;
      facts.add(fact.field(message, Number(m[1]), m[2]!, label, type, m[5] !== undefined));
    } else if ((m = enumPattern.exec(line))) {
      for (const pair of m[2]!.split(' ')) {
        const [value, number] = pair.split('=');
        facts.add(fact.enumValue(`${pkg}.${m[1]}`, value!, Number(number)));
      }
    } else {
      throw new Error(`contract line ${index + 1} has no known form: ${line}`);
    }
  });
  return facts;
}

function localNames(lines: readonly string[]): Set<string> {
  const names = new Set<string>();
  let pkg = '';
  for (const line of lines) {
    const file = filePattern.exec(line);
    if (file) pkg = file[2]!;
    const named = messagePattern.exec(line) ?? enumPattern.exec(line);
    if (named) names.add(`${pkg}.${named[1]}`);
  }
  return names;
}
