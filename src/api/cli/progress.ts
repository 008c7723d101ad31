// Progress of a pull or a push: bars on a terminal, one line per finished blob elsewhere.
import { MultiBar, type SingleBar } from 'cli-progress';
import type { PullProgress, PushProgress } from '../client/index.ts';
import type { Output } from './context.ts';
import { formatBytes, shortDigest } from './format.ts';

export interface ProgressView extends Disposable {
  update(progress: PullProgress | PushProgress): void;
}

const barsMax = 100;

export function pullProgress(output: Output): ProgressView {
  return output.isTTY === true ? bars(output) : lines(output);
}

function bars(output: Output): ProgressView {
  const multi = new MultiBar({
    stream: output,
    format: '{name} {bar} {percentage}% {amount} {status}',
    barCompleteChar: '\u2588',
    barIncompleteChar: '\u2591',
    barsize: 30,
    hideCursor: true,
    clearOnComplete: false,
    // Signals are ours to handle; `Symbol.dispose` brings the cursor back.
    gracefulExit: false,
  });
  const open = new Map<string, SingleBar>();
  return {
    update({ digest, kind, status, offsetBytes, totalBytes }) {
      const payload = {
        name: `${kind.padEnd(8)} ${shortDigest(digest)}`,
        amount: formatBytes(offsetBytes).padStart(10),
        status,
      };
      const bar = open.get(digest);
      if (bar !== undefined) bar.update(offsetBytes, payload);
      else if (open.size < barsMax)
        open.set(digest, multi.create(Math.max(1, totalBytes), offsetBytes, payload));
    },
    [Symbol.dispose]() {
      multi.stop();
    },
  };
}

function lines(output: Output): ProgressView {
  const told = new Set<string>();
  const onTheWay: ReadonlySet<string> = new Set(['waiting', 'downloading', 'extracting', 'uploading']);
  return {
    update({ digest, kind, status, totalBytes }) {
      if (onTheWay.has(status)) return;
      const line = `${kind} ${shortDigest(digest)}: ${status} (${formatBytes(totalBytes)})`;
      if (told.has(line)) return;
      told.add(line);
      output.write(`${line}\n`);
    },
    [Symbol.dispose]() {},
  };
}
