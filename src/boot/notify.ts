// Tells systemd how the daemon is (sd_notify(3)), when it asked to be told.
import { spawn } from 'node:child_process';

/**
 * Sends one state to the socket in NOTIFY_SOCKET. Node has no datagram unix sockets, so the sending is left to
 * systemd-notify, which is there wherever systemd is.
 */
export function notifySystemd(state: 'READY=1' | 'STOPPING=1'): void {
  if (process.env['NOTIFY_SOCKET'] === undefined) return;
  const child = spawn('systemd-notify', [`--pid=${process.pid}`, state], { stdio: 'ignore' });
  child.on('error', (error) => process.stderr.write(`trouped: systemd-notify: ${error.message}\n`));
}
