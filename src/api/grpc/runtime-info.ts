// What a runtime says of itself, for Introspection.PluginInfo of the task runtime.
import { codeOf, fail, messageOf } from '../model/errors.ts';
import type { ShimRuntime } from '../model/ports/shim.ts';
import { RuntimeInfo, RuntimeRequest } from '../proto/gen/types/introspection.ts';
import type { PluginInfoProvider } from './introspection.ts';

const runtimeDefault = 'io.containerd.runc.v2';
const infoTimeoutMs = 10_000;
const requestType = 'containerd.types.RuntimeRequest';

/** The options are a RuntimeRequest, the answer is a RuntimeInfo. A shim that knows no `-info` is `unimplemented`. */
export function runtimeInfoProvider(runtime: Pick<ShimRuntime, 'resolve' | 'info'>): PluginInfoProvider {
  return async (request) => {
    const type = request.typeUrl.slice(request.typeUrl.lastIndexOf('/') + 1);
    if (type !== requestType) throw fail('invalid-argument', `options must be ${requestType}, not "${type}"`);
    let asked: RuntimeRequest;
    try {
      asked = RuntimeRequest.decode(request.value);
    } catch (error) {
      throw fail('invalid-argument', `options are malformed: ${messageOf(error)}`, error);
    }
    const name = asked.runtimePath === '' ? runtimeDefault : asked.runtimePath;
    const binary = await runtime.resolve(name).catch((error) => {
      throw codeOf(error) === 'unknown' ? fail('not-found', messageOf(error), error) : error;
    });
    const info = await runtime.info(binary, asked.options, infoTimeoutMs);
    return { typeUrl: RuntimeInfo.$type, value: RuntimeInfo.encode(info).finish() };
  };
}
