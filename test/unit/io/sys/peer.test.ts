// Credentials of the other end of a unix socket.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { test } from 'node:test';
import { openPeerCredentials } from '../../../../src/io/sys/peer.ts';

test('the peer of a unix socket is known by its process and its ids', async (t) => {
  const name = `\0peer-test-${process.pid}`;
  const server = createServer().listen(name);
  await once(server, 'listening');
  const client = connect(name);
  const [accepted] = (await once(server, 'connection')) as [Socket];
  t.after(() => {
    client.destroy();
    accepted.destroy();
    server.close();
  });
  const { fd } = (accepted as unknown as { _handle: { fd: number } })._handle;
  const peerCredentials = openPeerCredentials();
  assert.deepEqual(peerCredentials(fd), {
    pid: process.pid,
    uid: process.geteuid?.(),
    gid: process.getegid?.(),
  });
  assert.throws(() => peerCredentials(-1), { code: 'EBADF' });
});
