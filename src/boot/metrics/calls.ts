// Counts the gRPC calls of bound services, under the names that Go's servers give these figures.
import type { BoundMethod, BoundService } from '../../api/grpc/bind.ts';
import type { CallContext } from '../../api/grpc/context.ts';
import { codeOf, type ErrorCode } from '../../api/model/errors.ts';
import type { Exposition, Labels } from './exposition.ts';

interface Counted {
  readonly labels: Labels;
  started: number;
  handledMs: number;
  /** By class of the error; `OK` for none. */
  readonly handled: Map<string, number>;
}

/** `not-found` as Go's metrics have it: NotFound. */
function codeName(code: ErrorCode): string {
  return code
    .split('-')
    .map((word) => word.charAt(0).toUpperCase() + word.slice(1))
    .join('');
}

function kindOf({ requestStream, responseStream }: BoundMethod): string {
  if (requestStream) return responseStream ? 'bidi_stream' : 'client_stream';
  return responseStream ? 'server_stream' : 'unary';
}

export class CallCounters {
  readonly #methods: Counted[] = [];

  /** The same services, counted. */
  wrap(services: readonly BoundService[]): BoundService[] {
    return services.map((service) => ({
      fullName: service.fullName,
      methods: service.methods.map((method) => this.#wrapMethod(service.fullName, method)),
    }));
  }

  #wrapMethod(service: string, method: BoundMethod): BoundMethod {
    const { handler } = method;
    if (handler === undefined) return method;
    const counted: Counted = {
      labels: {
        grpc_type: kindOf(method),
        grpc_service: service,
        grpc_method: method.path.slice(service.length + 2),
      },
      started: 0,
      handledMs: 0,
      handled: new Map(),
    };
    this.#methods.push(counted);
    const ended = (sinceMs: number, code: string) => {
      counted.handledMs += performance.now() - sinceMs;
      counted.handled.set(code, (counted.handled.get(code) ?? 0) + 1);
    };
    const failed = (sinceMs: number, error: unknown) => ended(sinceMs, codeName(codeOf(error)));
    const counting = (request: unknown, context: CallContext): unknown => {
      const sinceMs = performance.now();
      counted.started++;
      let answer: unknown;
      try {
        answer = handler(request, context);
      } catch (error) {
        failed(sinceMs, error);
        throw error;
      }
      if (method.responseStream) {
        return follow(
          answer as AsyncIterable<unknown>,
          () => ended(sinceMs, 'OK'),
          (error) => failed(sinceMs, error),
        );
      }
      Promise.resolve(answer).then(
        () => ended(sinceMs, 'OK'),
        (error) => failed(sinceMs, error),
      );
      return answer;
    };
    return { ...method, handler: counting };
  }

  addTo(exposition: Exposition): void {
    for (const { labels, started, handled, handledMs } of this.#methods) {
      exposition.add('grpc_server_started_total', 'counter', 'Calls that have begun.', started, labels);
      const seconds = handledMs / 1000;
      exposition.add(
        'grpc_server_handling_seconds_total',
        'counter',
        'Time that calls took.',
        seconds,
        labels,
      );
      for (const [code, count] of handled) {
        const coded = { ...labels, grpc_code: code };
        exposition.add('grpc_server_handled_total', 'counter', 'Calls that have ended.', count, coded);
      }
    }
  }
}

async function* follow(
  answers: AsyncIterable<unknown>,
  ended: () => void,
  failed: (error: unknown) => void,
): AsyncGenerator<unknown> {
  try {
    yield* answers;
  } catch (error) {
    failed(error);
    throw error;
  }
  ended();
}
