// The daemon of a crash trial: started on one root again and again, ended by SIGKILL.
import { mkdirSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { type GrpcClient, grpcClient } from '../fixtures/grpc.ts';
import { type Service, startService } from '../fixtures/process.ts';

const repository = fileURLToPath(new URL('../../', import.meta.url));
/** A start that hangs is what this finds: on a busy machine, a start of low priority takes half a minute. */
const startTimeoutMs = 180_000;

export interface DaemonPlace {
  /** For socket, state and log. */
  readonly directory: string;
  readonly root: string;
  readonly config?: string;
  /** Compiled code, so that the next start is faster. */
  readonly cache: string;
}

export class CrashedDaemon {
  readonly #place: DaemonPlace;
  readonly #configPath: string;
  readonly #address: string;
  #service: Service | undefined;

  constructor(place: DaemonPlace) {
    this.#place = place;
    this.#configPath = join(place.directory, 'config.toml');
    this.#address = join(place.directory, 'd.sock');
    mkdirSync(place.directory, { recursive: true });
    const lines = [
      `root = "${place.root}"`,
      `state = "${join(place.directory, 'state')}"`,
      '[grpc]',
      `address = "${this.#address}"`,
      place.config ?? '',
    ];
    writeFileSync(this.#configPath, lines.join('\n'));
  }

  /** Starts the process and no more. */
  launch(): void {
    this.#service = startService(join(repository, 'bin/trouped'), ['--config', this.#configPath], {
      logPath: join(this.#place.directory, 'log'),
      env: { NODE_COMPILE_CACHE: this.#place.cache },
    });
  }

  /** Starts, and waits until it accepts connections; rejects when it ends instead. */
  async start(): Promise<GrpcClient> {
    this.launch();
    const giveUpMs = performance.now() + startTimeoutMs;
    while (!(await this.#accepts())) {
      if (this.#service?.running() !== true) throw new Error(`the daemon ended:\n${this.log()}`);
      if (performance.now() > giveUpMs) throw new Error(`the daemon does not answer:\n${this.log()}`);
      await sleep(10);
    }
    return grpcClient(this.#address);
  }

  get pid(): number {
    return this.#service?.pid ?? -1;
  }

  running(): boolean {
    return this.#service?.running() === true;
  }

  log(): string {
    return this.#service?.log(6_000) ?? '';
  }

  async kill(): Promise<void> {
    if (this.#service?.running() === true) await this.#service.stop('SIGKILL');
  }

  #accepts(): Promise<boolean> {
    return new Promise((resolve) => {
      const socket = connect(this.#address);
      const answer = (isThere: boolean) => {
        socket.destroy();
        resolve(isThere);
      };
      socket.on('connect', () => answer(true));
      socket.on('error', () => answer(false));
    });
  }
}
