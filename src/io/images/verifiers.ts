// Image verifiers: programs in a directory that judge what an image resolved to before anything of it is fetched.
import { spawn } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { fail, messageOf } from '../../api/model/errors.ts';
import type { LinkedDescriptor } from '../../api/model/oci.ts';

export interface VerifierSettings {
  readonly directory: string;
  /** Programs that are asked, by name; negative for all. */
  readonly verifiersMax: number;
  readonly verifierMs: number;
  readonly onNote: (message: string) => void;
}

const outputBytesMax = 32 * 1024;
const descriptorType = 'application/vnd.oci.descriptor.v1+json';

/** Throws `permission-denied` with the reason of the first that refuses; `failed-precondition` when one cannot tell. */
export async function verifyImage(
  settings: VerifierSettings,
  name: string,
  target: LinkedDescriptor,
  signal?: AbortSignal,
): Promise<void> {
  let names: string[];
  try {
    names = (await readdir(settings.directory)).sort();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return;
    throw fail('failed-precondition', `image verifiers in ${settings.directory}: ${messageOf(error)}`, error);
  }
  if (settings.verifiersMax >= 0) names = names.slice(0, settings.verifiersMax);
  for (const verifier of names) {
    signal?.throwIfAborted();
    const verdict = await ask(settings, verifier, name, target, signal);
    if (verdict.error !== '') settings.onNote(`image verifier ${verifier}: ${verdict.error}`);
    if (verdict.code === 0) continue;
    throw fail('permission-denied', `image verifier ${verifier} rejected ${name}: ${verdict.output}`);
  }
}

function ask(
  { directory, verifierMs }: VerifierSettings,
  verifier: string,
  name: string,
  { mediaType, digest, size, annotations }: LinkedDescriptor,
  signal: AbortSignal | undefined,
): Promise<{ code: number; output: string; error: string }> {
  const args = ['-name', name, '-digest', digest, '-stdin-media-type', descriptorType];
  const described = { mediaType, digest, size: Number(size) };
  const stdin =
    annotations.size === 0 ? described : { ...described, annotations: Object.fromEntries(annotations) };
  return new Promise((resolve, reject) => {
    const program = spawn(join(directory, verifier), args, {
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
    });
    let late = false;
    // A group of its own, so that what it started ends with it and cannot hold its output open.
    const kill = (): void => {
      if (program.pid === undefined) return;
      try {
        process.kill(-program.pid, 'SIGKILL');
      } catch {
        // It has ended by itself in the meantime.
      }
    };
    const timer = setTimeout(() => {
      late = true;
      kill();
    }, verifierMs);
    const onAbort = (): void => kill();
    signal?.addEventListener('abort', onAbort, { once: true });
    const output = collect(program.stdout);
    const errors = collect(program.stderr);
    const end = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    };
    program.once('error', (error) => {
      end();
      reject(
        fail('failed-precondition', `image verifier ${verifier} cannot be run: ${messageOf(error)}`, error),
      );
    });
    program.once('close', (code, killedBy) => {
      end();
      if (signal?.aborted) reject(fail('canceled', `image verifier ${verifier} was stopped`, signal.reason));
      else if (late) {
        reject(
          fail('failed-precondition', `image verifier ${verifier} did not answer within ${verifierMs} ms`),
        );
      } else if (code === null) {
        reject(fail('failed-precondition', `image verifier ${verifier} was ended by ${killedBy}`));
      } else resolve({ code, output: output().trim(), error: errors().trim() });
    });
    program.stdin.on('error', () => {});
    program.stdin.end(JSON.stringify(stdin));
  });
}

/** What a program writes, up to the limit; the rest is read and forgotten, so that it can end. */
function collect(stream: NodeJS.ReadableStream): () => string {
  const chunks: Buffer[] = [];
  let size = 0;
  stream.on('data', (chunk: Buffer) => {
    if (size < outputBytesMax) chunks.push(chunk.subarray(0, outputBytesMax - size));
    size += chunk.length;
  });
  return () => Buffer.concat(chunks).toString('utf8');
}
