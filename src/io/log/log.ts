// The log port over pino: JSON lines on standard error.
import { destination, type Logger, pino } from 'pino';
import type { Log, LogFields } from '../../api/model/ports/log.ts';

/** Level names as containerd's flag has them. */
export const logLevels = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'panic'] as const;
export type LogLevel = (typeof logLevels)[number];

/** `fd` is where the lines go: 2 is standard error. Synchronous, so that the last words before a crash are kept. */
export function createLog(level: LogLevel, fd = 2): Log {
  const logger = pino(
    {
      level: level === 'panic' ? 'fatal' : level,
      base: null,
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: serializeError },
    },
    destination({ fd, sync: true }),
  );
  return wrap(logger);
}

function wrap(logger: Logger): Log {
  return {
    debug: (message, fields) => logger.debug(fields ?? {}, message),
    info: (message, fields) => logger.info(fields ?? {}, message),
    warn: (message, fields) => logger.warn(fields ?? {}, message),
    error: (message, fields) => logger.error(fields ?? {}, message),
    with: (fields: LogFields) => wrap(logger.child(fields)),
  };
}

function serializeError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const { code } = error as { code?: unknown };
  return {
    message: error.message,
    ...(code === undefined ? {} : { code }),
    stack: error.stack,
    ...(error.cause === undefined ? {} : { cause: serializeError(error.cause) }),
  };
}
