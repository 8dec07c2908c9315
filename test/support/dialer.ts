/** A function that tries what it can reach. */
import type { InlineFunction } from './upload-function.ts';

/**
 * Called with an address and port it says what answered there, 'timeout', or the error's code; it
 * can also listen, list its interfaces and read a file.
 */
export function dialer(name: string, egress: string[] | 'none'): InlineFunction {
  const network = egress === 'none' ? egress : { egress };
  return { manifest: { name, network, timeoutMs: 10_000 }, 'handler.ts': handler };
}

const handler = `
import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { networkInterfaces } from 'node:os';

type Event = { address: string; port: number; protocol: string; listen?: number; family?: number;
  interfaces?: boolean; read?: string };

export async function handler(event: Event): Promise<unknown> {
  if (event.interfaces) return Object.keys(networkInterfaces());
  if (event.read) return readFileSync(event.read, 'utf8');
  if (event.listen) return listen(event.listen, event.family);
  const { promise, resolve } = Promise.withResolvers<string>();
  const timer = setTimeout(() => resolve('timeout'), 1000);
  const socket = event.protocol === 'udp' ? ask(event, resolve) : dial(event, resolve);
  const answer = await promise;
  clearTimeout(timer);
  if ('destroy' in socket) socket.destroy(); else socket.close();
  return answer.trim();
}

function dial({ address, port }: Event, resolve: (text: string) => void) {
  return connect({ host: address, port })
    .on('data', (bytes) => resolve(String(bytes)))
    .on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
}

function ask({ address, port }: Event, resolve: (text: string) => void) {
  const socket = createSocket(address.includes(':') ? 'udp6' : 'udp4');
  socket.on('message', (bytes) => resolve(String(bytes)));
  socket.on('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? ''));
  socket.send('?', port, address);
  return socket;
}

async function listen(port: number, family?: number): Promise<string> {
  const own = networkInterfaces()['eth0']?.find((one) => one.family === 'IPv' + family);
  const server = createServer((socket) => socket.end(own?.address)).on('error', () => undefined);
  const heard = Promise.withResolvers<void>();
  server.on('error', () => heard.resolve()).listen(port, '::', heard.resolve);
  await heard.promise;
  return own?.address ?? '';
}
`;
