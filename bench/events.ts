// Events delivered a second: publishes over one connection, each subscriber on another.
import { Worker } from 'node:worker_threads';

export interface EventLoad {
  socketPath: string;
  namespace: string;
  subscriberCount: number;
  publishCount: number;
}

export interface EventResult {
  /** Events that reached a subscriber. */
  perSecond: number;
}

export function deliver(load: EventLoad): Promise<EventResult> {
  return new Promise((resolve, reject) => {
    const worker = new Worker(new URL('./event-worker.ts', import.meta.url), { workerData: { load } });
    worker.on('message', resolve);
    worker.on('error', reject);
    worker.on('exit', () => reject(new Error('the events were not all delivered')));
  });
}
