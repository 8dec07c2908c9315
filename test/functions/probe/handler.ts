/** Does on request what a curious or hostile function would do, and tells what it saw. */
import { spawn, spawnSync } from 'node:child_process';
import {
  createHash,
  generateKeyPairSync,
  generateKeySync,
  randomBytes,
  randomUUID,
  webcrypto,
} from 'node:crypto';
import {
  mkdtempSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer } from 'node:net';
import { hostname, networkInterfaces } from 'node:os';
import { runInThisContext } from 'node:vm';
import type { Handler } from '../../../functions/types.ts';

export type ProbeRequest =
  | { do: 'view' }
  | { do: 'secrets' }
  | { do: 'read'; path: string }
  | { do: 'write'; path: string; text: string }
  | { do: 'stat'; path: string }
  /** Waits for the program. */
  | { do: 'run'; command: string[]; input?: string }
  /** Leaves it running. */
  | { do: 'start'; command: string[] }
  | { do: 'kill'; pid: number; signal: string }
  | { do: 'listen'; port: number; greeting: string }
  | { do: 'connect'; port: number }
  | { do: 'spin'; forMs: number }
  /** Fills memory and keeps it for as long as the instance lives. */
  | { do: 'hold'; mebibytes: number }
  | { do: 'count' }
  /** Runs the text of a function, as code that the function itself had brought. */
  | { do: 'evaluate'; source: string; argument: unknown };

export interface View {
  pid: number;
  parentPid: number;
  /** All that /proc shows, in order. */
  pids: number[];
  uid: number | undefined;
  hostname: string;
  domainName: string;
  interfaces: string[];
  routes: string[];
  /** Kind to `kind:[inode]`. */
  namespaces: Record<string, string>;
  /** /proc/self/cgroup, a line each. */
  cgroups: string[];
  mounts: { point: string; type: string; options: string[] }[];
}

export interface RunResult {
  status: number | null;
  signal: string | null;
  stdout: string;
  stderr: string;
  error: string | undefined;
}

/** Everything that must differ from one instance to the next. */
export interface Secrets {
  uuid: string;
  bytes: string;
  number: number;
  keyFingerprint: string;
  symmetricKey: string;
  webBytes: string;
  webKey: string;
  temporaryName: string;
  hostname: string;
  pid: number;
  pids: number[];
  namespaces: Record<string, string>;
}

export const handler: Handler<ProbeRequest> = async (request) => {
  switch (request.do) {
    case 'view':
      return view();
    case 'secrets':
      return await secrets();
    case 'read':
      return readFileSync(request.path, 'utf8');
    case 'write':
      writeFileSync(request.path, request.text);
      return true;
    case 'stat': {
      const { uid, gid, mode, nlink, size } = statSync(request.path);
      return { uid, gid, mode, nlink, size };
    }
    case 'run':
      return run(request.command, request.input);
    case 'start':
      return spawn(request.command[0] ?? '', request.command.slice(1), { stdio: 'ignore' }).pid;
    case 'kill':
      return process.kill(request.pid, request.signal);
    case 'listen':
      return await listen(request.port, request.greeting);
    case 'connect':
      return await greetingAt(request.port);
    case 'spin':
      return spin(request.forMs);
    case 'hold':
      held.push(Buffer.alloc(request.mebibytes * 2 ** 20, 1));
      return held.length;
    case 'count':
      return (count += 1);
    case 'evaluate': {
      const fn = runInThisContext(`(${request.source})`) as (argument: unknown) => unknown;
      return await fn(request.argument);
    }
  }
};

const held: Buffer[] = [];
let count = 0;

function view(): View {
  return {
    pid: process.pid,
    parentPid: process.ppid,
    pids: pidsInProc(),
    uid: process.getuid?.(),
    hostname: hostname(),
    domainName: readFileSync('/proc/sys/kernel/domainname', 'utf8').trim(),
    interfaces: interfaceNames(),
    routes: readFileSync('/proc/net/route', 'utf8').trim().split('\n').slice(1),
    namespaces: namespaces(),
    cgroups: readFileSync('/proc/self/cgroup', 'utf8').trim().split('\n'),
    mounts: readFileSync('/proc/self/mounts', 'utf8')
      .trim()
      .split('\n')
      .map((line) => {
        const [, point = '', type = '', options = ''] = line.split(' ');
        return { point, type, options: options.split(',') };
      }),
  };
}

function pidsInProc(): number[] {
  const numbers = readdirSync('/proc').map(Number).filter(Number.isInteger);
  return numbers.toSorted((a, b) => a - b);
}

/** Also those that are down, which the interfaces of node:os leave out. */
function interfaceNames(): string[] {
  const lines = readFileSync('/proc/net/dev', 'utf8').trim().split('\n').slice(2);
  const named = lines.map((line) => line.split(':')[0]?.trim() ?? '');
  return [...new Set([...named, ...Object.keys(networkInterfaces())])].toSorted();
}

function namespaces(): Record<string, string> {
  const kinds = ['cgroup', 'ipc', 'mnt', 'net', 'pid', 'user', 'uts'];
  return Object.fromEntries(kinds.map((kind) => [kind, readlinkSync(`/proc/self/ns/${kind}`)]));
}

async function secrets(): Promise<Secrets> {
  const { publicKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  const key = publicKey.export({ type: 'spki', format: 'der' });
  const { subtle } = webcrypto;
  const webKey = await subtle.generateKey({ name: 'HMAC', hash: 'SHA-256' }, true, ['sign']);
  const temporary = mkdtempSync('/tmp/x');
  rmdirSync(temporary);
  return {
    uuid: randomUUID(),
    bytes: randomBytes(16).toString('hex'),
    number: Math.random(),
    keyFingerprint: createHash('sha256').update(key).digest('hex'),
    symmetricKey: generateKeySync('aes', { length: 256 }).export().toString('hex'),
    webBytes: Buffer.from(webcrypto.getRandomValues(new Uint8Array(16))).toString('hex'),
    webKey: Buffer.from(await subtle.exportKey('raw', webKey)).toString('hex'),
    temporaryName: temporary,
    hostname: hostname(),
    pid: process.pid,
    pids: pidsInProc(),
    namespaces: namespaces(),
  };
}

function run([command = '', ...args]: string[], input?: string): RunResult {
  const result = spawnSync(command, args, {
    encoding: 'utf8',
    maxBuffer: 16 * 2 ** 20,
    ...(input === undefined ? {} : { input }),
  });
  const { status, signal, stdout, stderr, error } = result;
  return { status, signal, stdout, stderr, error: error?.message };
}

/** Keeps listening after the call. Resolves with the error's code, or "listening". */
function listen(port: number, greeting: string): Promise<string> {
  return new Promise((resolve) => {
    const server = createServer((socket) => socket.end(greeting));
    server.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'error'));
    server.listen(port, '127.0.0.1', () => resolve('listening'));
  });
}

function greetingAt(port: number): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const socket = connect(port, '127.0.0.1');
    socket.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
    socket.once('error', (error: NodeJS.ErrnoException) => resolve(error.code ?? 'error'));
    socket.once('end', () => resolve(text));
  });
}

function spin(forMs: number): number {
  let rounds = 0;
  for (const end = performance.now() + forMs; performance.now() < end;) rounds += 1;
  return rounds;
}
