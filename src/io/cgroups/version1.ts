// Statistics of cgroup version 1 as `io.containerd.cgroups.v1.Metrics`.
import {
  BlkIOEntry,
  CPUStat,
  HugetlbStat,
  MemoryEntry,
  MemoryStat,
  Metrics,
} from '../../api/proto/gen/cgroup1/metrics.ts';
import { hugePageSizes, numberOf, readNumber, readPairs, readRdma, readText, unlimited } from './files.ts';

type Controllers = Readonly<Record<string, string>>;

/** USER_HZ of every Linux that runs here. */
const nanosPerTick = 10_000_000n;

export function metricsOfVersion1(controllers: Controllers): Metrics {
  const { memory, pids, rdma, hugetlb } = controllers;
  const metrics = Metrics.create({
    cpu: cpuOf(controllers),
    blkio: controllers['blkio'] === undefined ? undefined : blkioOf(controllers['blkio']),
  });
  if (hugetlb !== undefined) {
    metrics.hugetlb = hugePageSizes(hugetlb, 'usage_in_bytes').map((pagesize) =>
      HugetlbStat.create({
        pagesize,
        usage: readNumber(hugetlb, `hugetlb.${pagesize}.usage_in_bytes`),
        max: readNumber(hugetlb, `hugetlb.${pagesize}.max_usage_in_bytes`),
        failcnt: readNumber(hugetlb, `hugetlb.${pagesize}.failcnt`),
      }),
    );
  }
  if (pids !== undefined) {
    const limit = readNumber(pids, 'pids.max');
    // Without a limit the number is 0 in version 1.
    metrics.pids = {
      current: readNumber(pids, 'pids.current'),
      limit: limit === unlimited ? 0n : limit,
    };
  }
  if (memory !== undefined) {
    metrics.memory = memoryOf(memory);
    const control = readPairs(memory, 'memory.oom_control');
    metrics.memoryOomControl = {
      oomKillDisable: control.get('oom_kill_disable') ?? 0n,
      underOom: control.get('under_oom') ?? 0n,
      oomKill: control.get('oom_kill') ?? 0n,
    };
  }
  if (rdma !== undefined) {
    metrics.rdma = { current: readRdma(rdma, 'rdma.current'), limit: readRdma(rdma, 'rdma.max') };
  }
  return metrics;
}

function cpuOf({ cpu, cpuacct }: Controllers): CPUStat | undefined {
  if (cpu === undefined && cpuacct === undefined) return undefined;
  const stat = CPUStat.create();
  if (cpuacct !== undefined) {
    const ticks = readPairs(cpuacct, 'cpuacct.stat');
    stat.usage = {
      total: readNumber(cpuacct, 'cpuacct.usage'),
      user: (ticks.get('user') ?? 0n) * nanosPerTick,
      kernel: (ticks.get('system') ?? 0n) * nanosPerTick,
      perCpu: (readText(cpuacct, 'cpuacct.usage_percpu') ?? '')
        .trim()
        .split(/\s+/)
        .filter(Boolean)
        .map(numberOf),
    };
  }
  if (cpu !== undefined) {
    const throttling = readPairs(cpu, 'cpu.stat');
    stat.throttling = {
      periods: throttling.get('nr_periods') ?? 0n,
      throttledPeriods: throttling.get('nr_throttled') ?? 0n,
      throttledTime: throttling.get('throttled_time') ?? 0n,
    };
  }
  return stat;
}

function memoryOf(directory: string): MemoryStat {
  const stat = readPairs(directory, 'memory.stat');
  const get = (name: string) => stat.get(name) ?? 0n;
  const entry = (module: string): MemoryEntry =>
    MemoryEntry.create({
      usage: readNumber(directory, `memory.${module}usage_in_bytes`),
      max: readNumber(directory, `memory.${module}max_usage_in_bytes`),
      failcnt: readNumber(directory, `memory.${module}failcnt`),
      limit: readNumber(directory, `memory.${module}limit_in_bytes`),
    });
  return MemoryStat.create({
    cache: get('cache'),
    rss: get('rss'),
    rssHuge: get('rss_huge'),
    mappedFile: get('mapped_file'),
    dirty: get('dirty'),
    writeback: get('writeback'),
    pgPgIn: get('pgpgin'),
    pgPgOut: get('pgpgout'),
    pgFault: get('pgfault'),
    pgMajFault: get('pgmajfault'),
    inactiveAnon: get('inactive_anon'),
    activeAnon: get('active_anon'),
    inactiveFile: get('inactive_file'),
    activeFile: get('active_file'),
    unevictable: get('unevictable'),
    hierarchicalMemoryLimit: get('hierarchical_memory_limit'),
    hierarchicalSwapLimit: get('hierarchical_memsw_limit'),
    totalCache: get('total_cache'),
    totalRss: get('total_rss'),
    totalRssHuge: get('total_rss_huge'),
    totalMappedFile: get('total_mapped_file'),
    totalDirty: get('total_dirty'),
    totalWriteback: get('total_writeback'),
    totalPgPgIn: get('total_pgpgin'),
    totalPgPgOut: get('total_pgpgout'),
    totalPgFault: get('total_pgfault'),
    totalPgMajFault: get('total_pgmajfault'),
    totalInactiveAnon: get('total_inactive_anon'),
    totalActiveAnon: get('total_active_anon'),
    totalInactiveFile: get('total_inactive_file'),
    totalActiveFile: get('total_active_file'),
    totalUnevictable: get('total_unevictable'),
    usage: entry(''),
    swap: entry('memsw.'),
    kernel: entry('kmem.'),
    kernelTcp: entry('kmem.tcp.'),
  });
}

function blkioOf(directory: string): Metrics['blkio'] {
  /** The names of the CFQ scheduler, or those of throttling where it is not in the kernel. */
  const entries = (...names: string[]): BlkIOEntry[] => {
    for (const name of names) {
      const found = (readText(directory, name) ?? '').split('\n').flatMap(blkioEntry);
      if (found.length > 0) return found;
    }
    return [];
  };
  return {
    ioServiceBytesRecursive: entries(
      'blkio.io_service_bytes_recursive',
      'blkio.throttle.io_service_bytes_recursive',
      'blkio.throttle.io_service_bytes',
    ),
    ioServicedRecursive: entries(
      'blkio.io_serviced_recursive',
      'blkio.throttle.io_serviced_recursive',
      'blkio.throttle.io_serviced',
    ),
    ioQueuedRecursive: entries('blkio.io_queued_recursive'),
    ioServiceTimeRecursive: entries('blkio.io_service_time_recursive'),
    ioWaitTimeRecursive: entries('blkio.io_wait_time_recursive'),
    ioMergedRecursive: entries('blkio.io_merged_recursive'),
    ioTimeRecursive: entries('blkio.time_recursive'),
    sectorsRecursive: entries('blkio.sectors_recursive'),
  };
}

/** `8:0 Read 4096`; some files leave the operation out; the line of totals names no device. */
function blkioEntry(line: string): BlkIOEntry[] {
  const match = /^(\d+):(\d+) (?:([A-Za-z]+) )?(\d+)$/.exec(line.trim());
  if (match === null) return [];
  return [
    BlkIOEntry.create({
      major: numberOf(match[1]),
      minor: numberOf(match[2]),
      op: match[3] ?? '',
      value: numberOf(match[4]),
    }),
  ];
}
