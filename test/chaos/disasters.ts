// What befalls daemon and shims: killed, stopped for a while, cut off from their sockets, one at a time or while there is
// no daemon. Each notes what nobody can be asked to know afterwards.
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { type Daemon, shimsOf } from '../fixtures/daemon.ts';
import { killPid } from '../fixtures/process.ts';
import type { Life, Random } from './containers.ts';

export class Disasters {
  readonly counts: Record<string, number> = {};
  /** Paths of all sockets of shims that were seen. */
  readonly sockets = new Set<string>();
  readonly #daemon: Daemon;
  readonly #random: Random;
  readonly #lives: readonly Life[];
  readonly #ours: boolean;

  constructor(given: { daemon: Daemon; random: Random; lives: readonly Life[]; ours: boolean }) {
    this.#daemon = given.daemon;
    this.#random = given.random;
    this.#lives = given.lives;
    this.#ours = given.ours;
  }

  /** One of them; returns its name. */
  async next(): Promise<string> {
    this.#noteSockets();
    const random = this.#random;
    const kind = random(4);
    const withoutDaemon = kind === 0 || random(4) === 0;
    if (withoutDaemon) {
      await this.#daemon.stop('SIGKILL');
      await sleep(random(1000));
    }
    let name = '';
    if (kind === 1) name = await this.#stopShim(withoutDaemon);
    else if (kind === 2) name = this.#killShim();
    else if (kind === 3) name = this.#deleteSocket();
    if (withoutDaemon) {
      name = name === '' ? 'daemon killed' : `daemon killed, meanwhile ${name}`;
      await this.#daemon.start();
    }
    this.counts[name] = (this.counts[name] ?? 0) + 1;
    return name;
  }

  #anyShim() {
    const shims = shimsOf(this.#daemon.address);
    return shims[this.#random(Math.max(1, shims.length))];
  }

  /** A daemon that starts meanwhile meets a silent shim. */
  async #stopShim(briefly: boolean): Promise<string> {
    const shim = this.#anyShim();
    if (shim === undefined) return 'no shim to stop';
    killPid(shim.pid, 'SIGSTOP');
    const goOn = () => killPid(shim.pid, 'SIGCONT');
    const forMs = 200 + this.#random(2500);
    if (briefly) setTimeout(goOn, forMs);
    else {
      await sleep(forMs);
      goOn();
    }
    return 'shim stopped for a while';
  }

  #killShim(): string {
    const shim = this.#anyShim();
    if (shim === undefined) return 'no shim to kill';
    const words = shim.args.flatMap((arg) => arg.split(' '));
    const id = words[words.indexOf('-id') + 1];
    for (const life of this.#lives) {
      // A process that ends while no shim is there leaves its status to nobody.
      if (this.#ours) life.unsure ||= life.signalled && life.status === undefined;
      // Who cleans up after it kills its container.
      else if (life.id === id) life.killed = true;
    }
    killPid(shim.pid);
    return 'shim killed';
  }

  #deleteSocket(): string {
    const found = [...this.sockets][this.#random(Math.max(1, this.sockets.size))];
    if (found === undefined) return 'no socket to delete';
    rmSync(found, { force: true });
    return 'socket deleted';
  }

  #noteSockets(): void {
    const bundles = join(this.#daemon.state, 'io.containerd.runtime.v2.task', this.#daemon.namespace);
    for (const id of list(bundles)) {
      try {
        const text = readFileSync(join(bundles, id, 'bootstrap.json'), 'utf8');
        const socket = /unix:\/\/([^"]+)/.exec(text)?.[1];
        if (socket !== undefined) this.sockets.add(socket);
      } catch {
        // Its shim has not said yet where it listens, or it has gone.
      }
    }
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
