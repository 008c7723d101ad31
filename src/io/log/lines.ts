// The log port as JSON lines on a descriptor that may go away: a shim's daemon comes and goes, and its log with it.
import { writeSync } from 'node:fs';
import type { Log, LogFields } from '../../api/model/ports/log.ts';

export interface LineLogOptions {
  readonly debug: boolean;
  /** Where lines go now; undefined drops them. */
  readonly target: () => number | undefined;
  /** Nobody reads there any more. */
  readonly onLost: () => void;
}

const lineBytesMax = 16 * 1024;

export function createLineLog(options: LineLogOptions, fixed: LogFields = {}): Log {
  const write = (level: string, message: string, fields: LogFields = {}) => {
    const fd = options.target();
    if (fd === undefined) return;
    const entry = { level, time: new Date().toISOString(), msg: message, ...fixed, ...shown(fields) };
    const line = JSON.stringify(entry, (_, value: unknown) =>
      typeof value === 'bigint' ? String(value) : value,
    );
    try {
      writeSync(fd, `${line.slice(0, lineBytesMax)}\n`);
    } catch (error) {
      // EAGAIN: the daemon is behind, and the line is lost. Anything else: it is gone.
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') options.onLost();
    }
  };
  return {
    debug: (message, fields) => {
      if (options.debug) write('debug', message, fields);
    },
    info: (message, fields) => write('info', message, fields),
    warn: (message, fields) => write('warn', message, fields),
    error: (message, fields) => write('error', message, fields),
    with: (fields) => createLineLog(options, { ...fixed, ...fields }),
  };
}

function shown(fields: LogFields): LogFields {
  const { error } = fields;
  if (!(error instanceof Error)) return fields;
  return { ...fields, error: error.message, code: (error as { code?: unknown }).code, stack: error.stack };
}
