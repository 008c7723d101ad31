// The log as every room sees it.

export type LogFields = Readonly<Record<string, unknown>>;

/** One structured line per call. An `error` field that holds an Error is written with message, code and stack. */
export interface Log {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  /** A log whose lines carry these fields too. */
  with(fields: LogFields): Log;
}
