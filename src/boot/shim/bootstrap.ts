// What a daemon says to a starting shim, in the form of containerd 2.3 and in the older one, and the shim's answer.
import { Any } from '../../api/proto/gen/google/protobuf/any.ts';
import {
  BootstrapParams,
  BootstrapResult,
  LogLevel,
} from '../../api/proto/gen/runtime/bootstrap/v1/bootstrap.ts';
import type { ShimArguments } from './arguments.ts';

export interface Bootstrap {
  /** The daemon reads a BootstrapResult. */
  readonly modern: boolean;
  readonly ttrpcAddress: string;
  readonly socketDir: string | undefined;
  readonly debug: boolean;
  readonly options: Any | undefined;
}

/**
 * An options Any decodes as BootstrapParams too, since both begin with two texts: only parameters that repeat the
 * id and the namespace of the command line are taken for such.
 */
export function parseBootstrapInput(
  input: Uint8Array,
  { id, namespace, debug }: ShimArguments,
  env: NodeJS.ProcessEnv,
): Bootstrap {
  const params = tryDecode(() => BootstrapParams.decode(input));
  if (params !== undefined && params.instanceId === id && params.namespace === namespace) {
    return {
      modern: true,
      ttrpcAddress: params.containerdTtrpcAddress || (env['TTRPC_ADDRESS'] ?? ''),
      socketDir: params.socketDir === '' ? undefined : params.socketDir,
      debug: debug || params.logLevel < LogLevel.LOG_LEVEL_INFO,
      options: params.extensions[0]?.value,
    };
  }
  const options = input.length === 0 ? undefined : tryDecode(() => Any.decode(input));
  return { modern: false, ttrpcAddress: env['TTRPC_ADDRESS'] ?? '', socketDir: undefined, debug, options };
}

function tryDecode<T>(decode: () => T): T | undefined {
  try {
    return decode();
  } catch {
    return undefined;
  }
}

/** Daemons before 2.3 take a bare address, which means version 2 of the task API: both versions are served. */
export function formatAnswer(address: string, modern: boolean): Uint8Array {
  if (!modern) return Buffer.from(address);
  return BootstrapResult.encode(BootstrapResult.create({ version: 3, address, protocol: 'ttrpc' })).finish();
}
