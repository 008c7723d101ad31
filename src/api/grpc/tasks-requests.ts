// What the Tasks service reads out of Create and Checkpoint requests: options, restore points.
import type { SandboxShim } from '../../actors/shim/protocol.ts';
import type { TaskCreate } from '../../actors/task/protocol.ts';
import { fail } from '../model/errors.ts';
import type { Namespace } from '../model/ids.ts';
import {
  type CheckpointDirectory,
  type CheckpointStore,
  checkpointMediaType,
} from '../model/ports/checkpoint.ts';
import type { ShimAddress } from '../model/ports/shim.ts';
import type { Any } from '../proto/gen/google/protobuf/any.ts';
import type { Container } from '../proto/gen/services/containers/v1/containers.ts';
import type { CreateTaskRequest } from '../proto/gen/services/tasks/v1/tasks.ts';
import { CheckpointOptions, Options } from '../proto/gen/types/runc/options/oci.ts';

const restoreAnnotation = 'RestoreFromPath';

/** An Any's type without the host that some libraries put in front. */
function typeOf(any: Any): string {
  return any.typeUrl.slice(any.typeUrl.lastIndexOf('/') + 1);
}

function given(any: Any | undefined): any is Any {
  return any !== undefined && (any.typeUrl !== '' || any.value.length > 0);
}

interface Decoder<T> {
  readonly $type: string;
  decode(input: Uint8Array): T;
}

/** Errors are of class `unknown`, whatever is wrong. */
function decodeAs<T>(type: Decoder<T>, any: Any, what: string): T {
  if (typeOf(any) !== type.$type) {
    throw fail('unknown', `${what} must be ${type.$type}, not "${any.typeUrl.slice(0, 200)}"`);
  }
  try {
    return type.decode(any.value);
  } catch (error) {
    throw fail('unknown', `${what} are malformed`, error);
  }
}

/** What the actor needs; task options replace those of the container's runtime, they are not merged. */
export function taskCreateOf(
  container: Container,
  request: CreateTaskRequest,
  checkpoint: string,
  join: SandboxShim | undefined,
): TaskCreate {
  const { rootfs, terminal, stdin, stdout, stderr } = request;
  const runtime = request.runtimePath === '' ? (container.runtime?.name ?? '') : request.runtimePath;
  const options = given(request.options) ? request.options : container.runtime?.options;
  return {
    launch: { runtime, options: given(options) ? options : undefined, spec: container.spec?.value, join },
    rootfs,
    terminal,
    stdin,
    stdout,
    stderr,
    checkpoint,
  };
}

/**
 * The shim that a container of a sandbox joins, if it serves version 3: the one that the options name, else the one that
 * the sandbox has. Otherwise the container gets a shim like any other.
 */
export async function sandboxShimOf(
  { sandboxAddress }: { sandboxAddress(namespace: string, id: string): Promise<ShimAddress | undefined> },
  namespace: Namespace,
  { sandbox: sandboxId }: Container,
  { options }: CreateTaskRequest,
): Promise<SandboxShim | undefined> {
  if (sandboxId === '') return undefined;
  const named = given(options) ? decodeAs(Options, options, 'task options') : undefined;
  const address =
    named === undefined || named.taskApiAddress === ''
      ? await sandboxAddress(namespace, sandboxId)
      : parseTaskApi(named.taskApiAddress, named.taskApiVersion);
  return address === undefined || address.version < 3 ? undefined : { sandboxId, address };
}

/** `ttrpc+unix:///run/x.sock`, `grpc+unix:///run/x.sock` */
function parseTaskApi(text: string, version: number): ShimAddress {
  const [, protocol, address = ''] = /^(ttrpc|grpc)\+(.+)$/s.exec(text) ?? [];
  if (protocol === 'ttrpc') return { version, protocol, address };
  if (protocol === 'grpc') return { version, protocol, address: address.replace(/^unix:\/\//, '') };
  throw fail('unknown', `task_api_address must begin with ttrpc+ or grpc+, not "${text.slice(0, 200)}"`);
}

/** The directory to restore from: empty when the task starts afresh. */
export async function restorePoint(
  checkpoints: CheckpointStore,
  namespace: Namespace,
  { options, checkpoint }: CreateTaskRequest,
): Promise<CheckpointDirectory> {
  const lasting = (path: string): CheckpointDirectory => ({ path, async [Symbol.asyncDispose]() {} });
  if (given(options)) {
    const { criuImagePath } = decodeAs(Options, options, 'task options');
    if (criuImagePath !== '') return lasting(criuImagePath);
  }
  if (checkpoint === undefined) return lasting('');
  const path = checkpoint.annotations.get(restoreAnnotation);
  if (path !== undefined && path !== '') return lasting(path);
  if (checkpoint.mediaType !== checkpointMediaType.images) {
    throw fail('unknown', `unsupported checkpoint type "${checkpoint.mediaType.slice(0, 200)}"`);
  }
  return await checkpoints.unpack(namespace, checkpoint);
}

/** An empty path: the images go to the content store. */
export function checkpointRequest(options: Any | undefined): { imagePath: string } {
  if (!given(options)) return { imagePath: '' };
  return decodeAs(CheckpointOptions, options, 'checkpoint options');
}
