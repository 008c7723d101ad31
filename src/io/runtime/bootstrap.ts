// What is said to a shim when it starts and what it answers, in the forms of new and old shims.
import { fail, messageOf } from '../../api/model/errors.ts';
import type { ShimAddress } from '../../api/model/ports/shim.ts';
import { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import {
  BootstrapParams,
  BootstrapResult,
  LogLevel,
} from '../../api/proto/gen/runtime/bootstrap/v1/bootstrap.ts';

/** `params`: BootstrapParams, of containerd 2.3 and later. `options`: the bare Any of the runtime options. */
export type BootstrapForm = 'params' | 'options';

const versionPattern = /^\s*Version:\s*v?(\d+)\.(\d+)/m;

/** Binaries that never take anything but the bare options. */
const optionsOnly = ['shim-runc-v1', 'shim-runhcs-v1'];

/**
 * The form to try first with a shim that answers `-v` with `text`: shims built from containerd before 2.3 know the
 * bare options only.
 */
export function formFor(binary: string, text: string): BootstrapForm {
  if (optionsOnly.some((name) => binary.includes(name))) return 'options';
  if (!text.trimStart().startsWith('containerd-shim-runc-v2')) return 'params';
  const version = versionPattern.exec(text);
  if (version === null) return 'params';
  const major = Number(version[1]);
  const minor = Number(version[2]);
  return major < 2 || (major === 2 && minor < 3) ? 'options' : 'params';
}

/** Whether a failed start says that stdin was taken for an options Any of an unknown type. */
export function isFormComplaint(output: string): boolean {
  return /type with url .*: not found|failed to unmarshal|proto: |cannot parse invalid wire-format/i.test(
    output,
  );
}

export interface BootstrapInput {
  readonly id: string;
  readonly namespace: string;
  readonly debug: boolean;
  readonly version: string;
  readonly ttrpcAddress: string;
  readonly grpcAddress: string;
  readonly publishBinary: string;
  readonly socketDir: string | undefined;
  readonly options: Any | undefined;
}

/** The bytes for standard input. */
export function encodeBootstrap(form: BootstrapForm, input: BootstrapInput): Uint8Array {
  const { options } = input;
  const given = options !== undefined && (options.typeUrl !== '' || options.value.length > 0);
  if (form === 'options') return given ? Any.encode(options).finish() : new Uint8Array(0);
  return BootstrapParams.encode(
    BootstrapParams.create({
      instanceId: input.id,
      namespace: input.namespace,
      logLevel: input.debug ? LogLevel.LOG_LEVEL_DEBUG : LogLevel.LOG_LEVEL_INFO,
      containerdVersion: input.version,
      containerdTtrpcAddress: input.ttrpcAddress,
      containerdGrpcAddress: input.grpcAddress,
      containerdBinary: input.publishBinary,
      extensions: given ? [{ value: options }] : [],
      socketDir: input.socketDir,
    }),
  ).finish();
}

/**
 * What `start` printed: an encoded BootstrapResult, JSON with version, address and protocol, or the bare address
 * of a version 2 shim. Throws `unimplemented` for a version that the daemon does not speak.
 */
export function parseBootstrap(output: Uint8Array): ShimAddress {
  return checked(fromProtobuf(output) ?? fromText(Buffer.from(output).toString('utf8').trim()));
}

interface Answer {
  version: number;
  address: string;
  protocol: string;
}

function fromProtobuf(output: Uint8Array): Answer | undefined {
  // Field 1 is a varint in every answer that names its version; a text never begins with that byte.
  if (output[0] !== 0x08) return undefined;
  try {
    const { version, address, protocol, _unknownFields } = BootstrapResult.decode(output);
    if (address === '' || Object.keys(_unknownFields ?? {}).length > 8) return undefined;
    return { version, address, protocol };
  } catch {
    return undefined;
  }
}

function fromText(text: string): Answer {
  if (text.startsWith('{')) {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch {
      value = undefined;
    }
    const { version, address, protocol } = (value ?? {}) as Record<string, unknown>;
    if (typeof version === 'number' && version >= 2 && typeof address === 'string') {
      return { version, address, protocol: typeof protocol === 'string' ? protocol : 'ttrpc' };
    }
  }
  return { version: 2, address: text, protocol: 'ttrpc' };
}

const textShownMax = 200;

function checked({ version, address, protocol }: Answer): ShimAddress {
  const kind = protocol === '' ? 'ttrpc' : protocol;
  if (kind !== 'ttrpc' && kind !== 'grpc') {
    throw fail('unimplemented', `shim protocol "${kind.slice(0, textShownMax)}"`);
  }
  if (version !== 3 && !(version === 2 && kind === 'ttrpc')) {
    throw fail('unimplemented', `shim API version ${version} over ${kind}`);
  }
  if (address === '' || /[\0\n]/.test(address)) {
    throw fail('unknown', `shim gave no address: ${JSON.stringify(address.slice(0, textShownMax))}`);
  }
  return { version, address, protocol: kind };
}

/** bootstrap.json as text. */
export function formatBootstrapFile(address: ShimAddress): string {
  return JSON.stringify({
    version: address.version,
    address: address.address,
    protocol: address.protocol,
  });
}

export function parseBootstrapFile(text: string): ShimAddress {
  try {
    return checked(fromText(text.trim()));
  } catch (error) {
    throw fail('unknown', `bootstrap.json: ${messageOf(error)}`, error);
  }
}
