// Loaded into a daemon with `--import`: writes how late its main thread's event loop runs to the file that
// TROUPE_BENCH_DELAY_FILE names, and begins anew when the file was taken away.
import { existsSync, renameSync, writeFileSync } from 'node:fs';
import { monitorEventLoopDelay } from 'node:perf_hooks';
import { isMainThread } from 'node:worker_threads';

const path = process.env['TROUPE_BENCH_DELAY_FILE'];
const intervalMs = 100;

if (isMainThread && path !== undefined && process.argv[1]?.includes('daemon') === true) {
  const histogram = monitorEventLoopDelay({ resolution: 1 });
  histogram.enable();
  setInterval(() => {
    if (!existsSync(path)) histogram.reset();
    writeFileSync(`${path}.new`, String(histogram.percentile(99) / 1e6));
    renameSync(`${path}.new`, path);
  }, intervalMs).unref();
}
