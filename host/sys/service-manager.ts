/**
 * Tells the manager of services that has started this process, such as systemd, how it is doing:
 * the protocol of sd_notify(3).
 */
import { closeSync } from 'node:fs';
import { connectDatagram, sendMessage } from './socket.ts';

/** `READY=1`, `STOPPING=1`, `STATUS=` and a sentence; sd_notify(3) lists them. */
export type ServiceState = 'READY=1' | 'STOPPING=1' | `STATUS=${string}`;

const variable = 'NOTIFY_SOCKET';

/**
 * Does nothing where no manager wants to know. Takes its address out of the environment: what this
 * process starts is not to speak for it. What it gives throws SyscallError when nobody listens.
 */
export function openServiceManager(
  environment: NodeJS.ProcessEnv,
): (...states: ServiceState[]) => void {
  const address = environment[variable] ?? '';
  delete environment[variable];
  return (...states) => {
    if (address === '') return;
    const fd = connectDatagram(address);
    try {
      sendMessage(fd, Buffer.from(states.join('\n')));
    } finally {
      closeSync(fd);
    }
  };
}
