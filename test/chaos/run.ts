// npm run chaos -- --seed N --containers 50 --seconds 60 --runtime io.containerd.troupe.v1 --binary crun --log FILE
import { parseArgs } from 'node:util';
import { runChaos } from './chaos.ts';

const { values } = parseArgs({
  options: {
    seed: { type: 'string', default: String(Date.now() % 1_000_000) },
    containers: { type: 'string', default: '50' },
    seconds: { type: 'string', default: '60' },
    runtime: { type: 'string', default: 'io.containerd.troupe.v1' },
    binary: { type: 'string', default: '' },
    log: { type: 'string' },
  },
});
const { seed, containers, seconds, runtime, binary, log: logPath } = values;
console.log(`seed ${seed}: ${containers} containers, ${seconds} s, ${runtime} ${binary}`);
const report = await runChaos({
  seed: Number(seed),
  containers: Number(containers),
  seconds: Number(seconds),
  runtime,
  binary,
  log: (line) => console.log(line),
  ...(logPath === undefined ? {} : { logPath }),
});
console.log(report);
process.exitCode = report.complaints.length === 0 ? 0 : 1;
