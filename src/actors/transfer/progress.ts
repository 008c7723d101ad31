// What a client hears of a transfer: what happens at once, how jobs stand every 300 ms, in the words that containerd's
// clients show.
import { packAny } from '../../api/model/binary-stream.ts';
import type { LinkedDescriptor } from '../../api/model/oci.ts';
import { Progress } from '../../api/proto/gen/types/transfer/progress.ts';
import type { DistributionProgress } from '../distribution/protocol.ts';
import type { Stream } from '../streaming/protocol.ts';

const intervalMs = 300;
const jobsMax = 10_000;
/** How long a client may take for the last reports. */
const farewellMsDefault = 5000;

interface Job {
  progress: DistributionProgress;
  told: boolean;
}

export class ProgressReporter implements AsyncDisposable {
  readonly #stream: Stream | undefined;
  readonly #imageName: string;
  readonly #farewellMs: number;
  readonly #jobs = new Map<string, Job>();
  readonly #refs = new Map<string, string>();
  #timer: NodeJS.Timeout | undefined;
  /** What is on its way to the client, in order. A client that has left hears nothing more. */
  #sending: Promise<void> = Promise.resolve();
  #busy = false;
  #deaf = false;

  constructor(stream: Stream | undefined, imageName: string, farewellMs = farewellMsDefault) {
    this.#farewellMs = farewellMs;
    this.#stream = stream;
    this.#imageName = imageName;
    if (stream === undefined) return;
    this.#timer = setInterval(() => this.#tick(), intervalMs);
    this.#timer.unref();
  }

  /** `Pulling from OCI Registry (...)`, or what happened to an image. */
  event(event: string, about?: { name: string; target?: LinkedDescriptor }): void {
    if (this.#stream === undefined) return;
    this.#tellJobs();
    this.#send(
      Progress.fromPartial({
        event,
        name: about?.name ?? '',
        desc: about?.target === undefined ? undefined : plain(about.target),
      }),
    );
  }

  readonly job = (progress: DistributionProgress): void => {
    if (this.#stream === undefined) return;
    const known = this.#jobs.get(progress.ref);
    if (known !== undefined) {
      known.told = false;
      known.progress = progress;
    } else if (this.#jobs.size < jobsMax) {
      this.#refs.set(progress.descriptor.digest, progress.ref);
      this.#jobs.set(progress.ref, { progress, told: false });
    }
  };

  #tick(): void {
    // A client that is slow gets fewer reports, never a longer queue of them.
    if (!this.#busy) this.#tellJobs();
  }

  #tellJobs(): void {
    for (const job of this.#jobs.values()) {
      if (job.told) continue;
      job.told = true;
      const { event, ref, descriptor, parents, offsetBytes, totalBytes } = job.progress;
      const above = parents.map((digest) => this.#refs.get(digest) ?? digest);
      this.#send(
        Progress.fromPartial({
          event,
          name: ref,
          parents: above.length === 0 ? [this.#imageName] : above,
          progress: BigInt(offsetBytes),
          total: BigInt(totalBytes),
          desc: plain(descriptor),
        }),
      );
    }
  }

  #send(progress: Progress): void {
    const stream = this.#stream;
    if (stream === undefined || this.#deaf) return;
    this.#busy = true;
    const sent = this.#sending.then(async () => {
      if (!this.#deaf) await stream.send(packAny(Progress, progress));
    });
    const settled = sent
      .catch(() => {
        this.#deaf = true;
      })
      .then(() => {
        if (this.#sending === settled) this.#busy = false;
      });
    this.#sending = settled;
  }

  /** Tells what is left, and ends the stream. A client that does not read must not hold the transfer up. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearInterval(this.#timer);
    this.#tellJobs();
    let late: NodeJS.Timeout | undefined;
    const limit = new Promise<void>((resolve) => {
      late = setTimeout(resolve, this.#farewellMs);
    });
    await Promise.race([this.#sending, limit]);
    clearTimeout(late);
    this.#deaf = true;
    this.#stream?.close();
  }
}

function plain({ mediaType, digest, size, annotations }: LinkedDescriptor) {
  return { mediaType, digest, size, annotations };
}
