// Statistics of cgroup version 2 as `io.containerd.cgroups.v2.Metrics`.
import {
  HugeTlbStat,
  IOEntry,
  MemoryStat,
  Metrics,
  type PSIData,
  type PSIStats,
} from '../../api/proto/gen/cgroup2/metrics.ts';
import { hugePageSizes, numberOf, readNumber, readPairs, readRdma, readText } from './files.ts';

export function metricsOfVersion2(directory: string): Metrics {
  const cpu = readPairs(directory, 'cpu.stat');
  const events = readPairs(directory, 'memory.events');
  return Metrics.create({
    pids: { current: readNumber(directory, 'pids.current'), limit: readNumber(directory, 'pids.max') },
    cpu: {
      usageUsec: cpu.get('usage_usec') ?? 0n,
      userUsec: cpu.get('user_usec') ?? 0n,
      systemUsec: cpu.get('system_usec') ?? 0n,
      nrPeriods: cpu.get('nr_periods') ?? 0n,
      nrThrottled: cpu.get('nr_throttled') ?? 0n,
      throttledUsec: cpu.get('throttled_usec') ?? 0n,
      nrBursts: cpu.get('nr_bursts') ?? 0n,
      burstUsec: cpu.get('burst_usec') ?? 0n,
      psi: pressure(directory, 'cpu.pressure'),
    },
    memory: memoryOf(directory),
    rdma: { current: readRdma(directory, 'rdma.current'), limit: readRdma(directory, 'rdma.max') },
    io: { usage: ioOf(directory), psi: pressure(directory, 'io.pressure') },
    hugetlb: hugePageSizes(directory, 'current').map((pagesize) =>
      HugeTlbStat.create({
        pagesize,
        current: readNumber(directory, `hugetlb.${pagesize}.current`),
        max: readNumber(directory, `hugetlb.${pagesize}.max`),
        failcnt: readPairs(directory, `hugetlb.${pagesize}.events`).get('max') ?? 0n,
      }),
    ),
    memoryEvents: {
      low: events.get('low') ?? 0n,
      high: events.get('high') ?? 0n,
      max: events.get('max') ?? 0n,
      oom: events.get('oom') ?? 0n,
      oomKill: events.get('oom_kill') ?? 0n,
      oomGroupKill: events.get('oom_group_kill') ?? 0n,
    },
  });
}

function memoryOf(directory: string): MemoryStat {
  const stat = readPairs(directory, 'memory.stat');
  const get = (name: string) => stat.get(name) ?? 0n;
  return MemoryStat.create({
    anon: get('anon'),
    file: get('file'),
    kernelStack: get('kernel_stack'),
    slab: get('slab'),
    sock: get('sock'),
    shmem: get('shmem'),
    fileMapped: get('file_mapped'),
    fileDirty: get('file_dirty'),
    fileWriteback: get('file_writeback'),
    anonThp: get('anon_thp'),
    inactiveAnon: get('inactive_anon'),
    activeAnon: get('active_anon'),
    inactiveFile: get('inactive_file'),
    activeFile: get('active_file'),
    unevictable: get('unevictable'),
    slabReclaimable: get('slab_reclaimable'),
    slabUnreclaimable: get('slab_unreclaimable'),
    pgfault: get('pgfault'),
    pgmajfault: get('pgmajfault'),
    // Newer kernels count anonymous and file pages apart.
    workingsetRefault:
      get('workingset_refault') + get('workingset_refault_anon') + get('workingset_refault_file'),
    workingsetActivate:
      get('workingset_activate') + get('workingset_activate_anon') + get('workingset_activate_file'),
    workingsetNodereclaim: get('workingset_nodereclaim'),
    pgrefill: get('pgrefill'),
    pgscan: get('pgscan'),
    pgsteal: get('pgsteal'),
    pgactivate: get('pgactivate'),
    pgdeactivate: get('pgdeactivate'),
    pglazyfree: get('pglazyfree'),
    pglazyfreed: get('pglazyfreed'),
    thpFaultAlloc: get('thp_fault_alloc'),
    thpCollapseAlloc: get('thp_collapse_alloc'),
    usage: readNumber(directory, 'memory.current'),
    usageLimit: readNumber(directory, 'memory.max'),
    swapUsage: readNumber(directory, 'memory.swap.current'),
    swapLimit: readNumber(directory, 'memory.swap.max'),
    maxUsage: readNumber(directory, 'memory.peak'),
    swapMaxUsage: readNumber(directory, 'memory.swap.peak'),
    psi: pressure(directory, 'memory.pressure'),
  });
}

/** `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...` */
function ioOf(directory: string): IOEntry[] {
  return (readText(directory, 'io.stat') ?? '').split('\n').flatMap((line) => {
    const [device, ...fields] = line.trim().split(' ');
    const numbers = /^(\d+):(\d+)$/.exec(device ?? '');
    if (numbers === null) return [];
    const get = (key: string) =>
      numberOf(fields.find((field) => field.startsWith(`${key}=`))?.slice(key.length + 1));
    return [
      IOEntry.create({
        major: numberOf(numbers[1]),
        minor: numberOf(numbers[2]),
        rbytes: get('rbytes'),
        wbytes: get('wbytes'),
        rios: get('rios'),
        wios: get('wios'),
      }),
    ];
  });
}

/** `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`, and the same for `full`. */
function pressure(directory: string, name: string): PSIStats | undefined {
  const text = readText(directory, name);
  if (text === undefined) return undefined;
  const of = (kind: string): PSIData | undefined => {
    const line = text.split('\n').find((candidate) => candidate.startsWith(`${kind} `));
    if (line === undefined) return undefined;
    const get = (key: string) => new RegExp(`${key}=([0-9.]+)`).exec(line)?.[1] ?? '0';
    return {
      avg10: Number(get('avg10')),
      avg60: Number(get('avg60')),
      avg300: Number(get('avg300')),
      total: numberOf(get('total')),
    };
  };
  return { some: of('some'), full: of('full') };
}
