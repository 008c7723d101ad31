// What users of the client library import.
export type { Credentials, CredentialsSource, Hosts, RegistryHost } from '../../io/registry/hosts.ts';
export { defaultHosts } from '../../io/registry/hosts.ts';
export { familiarReference, normalizeReference, parseReference } from '../../io/registry/reference.ts';
export { codeOf, type ErrorCode, messageOf, TroupeError } from '../model/errors.ts';
export type { Timestamp } from '../proto/gen/google/protobuf/timestamp.ts';
export { Status } from '../proto/gen/types/task/task.ts';
export type { ConvertImageOptions, ExportImagesOptions, ImportImagesOptions } from './archives.ts';
export {
  addressDefault,
  type Client,
  type ClientOptions,
  type ClientPullOptions,
  type ClientPushOptions,
  createClient,
  type NewContainer,
  namespaceDefault,
} from './client.ts';
export { type Container, stopSignalLabel } from './container.ts';
export type { Event } from './events.ts';
export type { Image } from './image.ts';
export type { ImageStatus } from './image-status.ts';
export { type IoFactory, logUriIo, type Mkfifo, nullIo, type StreamIoOptions } from './io.ts';
export type { Lease } from './leases.ts';
export type { PullProgress } from './pull.ts';
export type { PushProgress } from './push.ts';
export { mergeEnv, type OciMount, type OciProcess, type OciSpec, type SpecOptions } from './spec.ts';
export type { CallOptions } from './stub.ts';
export { type ExitStatus, type Process, sigkill, type Task } from './task.ts';
