// Figures for Prometheus from a daemon with a running container.
import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { startDaemon } from '../fixtures/daemon.ts';
import { busyboxImage } from '../fixtures/image.ts';
import { startRegistry } from '../fixtures/registry.ts';
import { subject } from './side.ts';

/** A port that nobody had a moment ago. */
async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

test('figures of containers, calls and actors', {
  skip: subject !== 'troupe' && 'examines Troupe',
}, async () => {
  await using registry = await startRegistry();
  const ref = await registry.push(await busyboxImage(), 'library/busybox', 'latest');
  const address = `127.0.0.1:${await freePort()}`;
  await using daemon = await startDaemon(subject, { config: `[metrics]\naddress = "${address}"\n` });
  await daemon.ctrOk(['images', 'pull', '--plain-http', ref]);
  await daemon.ctrOk(['run', '-d', ref, 'measured', 'sleep', '1000']);
  await daemon.ctr(['task', 'ps', 'missing']);
  await daemon.ctrOk(['images', 'tag', ref, 'example.com/other']);
  await daemon.ctrOk(['images', 'rm', '--sync', 'example.com/other']);
  const response = await fetch(`http://${address}/v1/metrics`);
  assert.match(response.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
  const text = await response.text();
  const labels = `container_id="measured",namespace="${daemon.namespace}"`;
  assert.match(text, new RegExp(`^container_pids_current\\{${labels}\\} 1$`, 'm'));
  assert.match(text, new RegExp(`^container_memory_usage_(usage_)?bytes\\{${labels}\\} [1-9]`, 'm'));
  assert.match(
    text,
    /^grpc_server_handled_total\{.*grpc_service="containerd\.services\.containers\.v1\.Containers",grpc_method="Get",grpc_code="NotFound"\} [1-9]/m,
  );
  assert.match(text, /^troupe_actors\{thread="main",actor="task"\} 1$/m);
  assert.match(text, /^troupe_collections_total\{outcome="completed"\} [1-9]/m);
  assert.match(text, /^troupe_collections_total\{outcome="failed"\} 0$/m);
  assert.match(text, /^troupe_collection_marked_total [1-9]/m);
  assert.match(text, /^troupe_collection_seconds_total\{step="mark"\} 0?\.?[0-9]/m);
  assert.match(text, /^troupe_heap_used_bytes\{thread="content"\} [1-9]/m);
  assert.equal((await fetch(`http://${address}/other`)).status, 404);
  assert.equal((await fetch(`http://${address}/v1/metrics`, { method: 'POST' })).status, 405);
});
