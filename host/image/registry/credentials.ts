/**
 * Credentials for registries from Docker's `config.json`, as `docker login`, `podman login` and
 * `skopeo login` write it: in the file itself, or in a credential helper that it names.
 */
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { homedir } from 'node:os';
import { join, resolve } from 'node:path';
import { text as readText } from 'node:stream/consumers';
import { z } from 'zod';
import { HatchError, messageOf } from '../../base/errors.ts';
import { isErrno } from '../../sys/errors.ts';

export type Credentials =
  | { kind: 'password'; username: string; password: string }
  /** An OAuth 2 refresh token, which only the token service takes. */
  | { kind: 'identity-token'; token: string };

const entry = z.object({
  auth: z.string().optional(),
  username: z.string().optional(),
  password: z.string().optional(),
  identitytoken: z.string().optional(),
});
const configSchema = z.object({
  auths: z.record(z.string(), entry).optional(),
  credHelpers: z.record(z.string(), z.string()).optional(),
  credsStore: z.string().optional(),
});
const helperAnswer = z.object({ Username: z.string(), Secret: z.string() });

const dockerHubKey = 'https://index.docker.io/v1/';
const helperName = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const helperTimeoutMs = 20_000;

/** Where Docker keeps it for who has this environment. */
export function dockerConfigFile(environment: NodeJS.ProcessEnv): string {
  const { DOCKER_CONFIG: directory = '' } = environment;
  return join(directory === '' ? join(homedir(), '.docker') : resolve(directory), 'config.json');
}

/**
 * What `file` has for a registry; undefined when that is nothing, or there is no file. It is read
 * anew each time: logging in needs no restart. Throws `host.config_invalid`.
 */
export async function credentialsFor(
  registry: string,
  file: string,
): Promise<Credentials | undefined> {
  const config = await readConfig(file);
  const keys = keysOf(registry);
  const found = Object.entries(config.auths ?? {}).find(([key]) => keys.includes(bareHost(key)));
  const helper =
    Object.entries(config.credHelpers ?? {}).find(([key]) => keys.includes(bareHost(key)))?.[1] ??
    config.credsStore;
  const stored = found === undefined ? undefined : fromEntry(found[1], registry, file);
  if (stored !== undefined || helper === undefined || helper === '') return stored;
  return askHelper(helper, registry === 'docker.io' ? dockerHubKey : registry);
}

async function readConfig(file: string): Promise<z.output<typeof configSchema>> {
  try {
    return configSchema.parse(JSON.parse(await readFile(file, 'utf8')));
  } catch (cause) {
    if (isErrno(cause, 'ENOENT')) return {};
    // A parser's message may quote the file, and thus a password.
    const reason = isSystemError(cause) ? messageOf(cause) : "it is not in the form of Docker's";
    throw new HatchError('host.config_invalid', `Cannot read credentials in "${file}": ${reason}`);
  }
}

function keysOf(registry: string): string[] {
  if (registry !== 'docker.io') return [registry];
  return ['docker.io', 'index.docker.io', 'registry-1.docker.io'];
}

/** Keys are hosts, or URLs of hosts. */
function bareHost(key: string): string {
  return key.replace(/^https?:\/\//, '').replace(/\/.*$/, '');
}

function fromEntry(
  { auth, username, password, identitytoken }: z.output<typeof entry>,
  registry: string,
  file: string,
): Credentials | undefined {
  if (identitytoken !== undefined && identitytoken !== '')
    return { kind: 'identity-token', token: identitytoken };
  if (auth !== undefined && auth !== '') {
    const decoded = Buffer.from(auth, 'base64').toString('utf8');
    const colon = decoded.indexOf(':');
    if (colon <= 0)
      throw new HatchError(
        'host.config_invalid',
        `Cannot use credentials for "${registry}" in "${file}": log in again`,
      );
    return {
      kind: 'password',
      username: decoded.slice(0, colon),
      // Some programs pad what they encode.
      password: decoded.slice(colon + 1).replace(/\0+$/, ''),
    };
  }
  if (username === undefined || password === undefined) return undefined;
  return { kind: 'password', username, password };
}

/** `docker-credential-NAME get`, which reads the registry and prints JSON. */
async function askHelper(name: string, registry: string): Promise<Credentials | undefined> {
  const program = `docker-credential-${name}`;
  const fail = (reason: string) =>
    new HatchError('host.config_invalid', `Cannot ask "${program}" for "${registry}": ${reason}`);
  if (!helperName.test(name)) throw fail('its name may have letters, digits, ".", "_" and "-"');
  const child = spawn(program, ['get'], {
    stdio: ['pipe', 'pipe', 'ignore'],
    timeout: helperTimeoutMs,
  });
  const ended = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('close', resolve);
  });
  // It may end without having read.
  child.stdin.on('error', () => {});
  child.stdin.end(registry);
  const [code, output] = await Promise.all([ended, readText(child.stdout)]).catch(
    (error: unknown) => {
      throw fail(messageOf(error));
    },
  );
  if (code !== 0) {
    // The protocol's only way to say that there are none.
    if (/credentials not found/i.test(output)) return undefined;
    throw fail(`it ended with status ${code ?? 'none, by a signal'}`);
  }
  const answer = helperAnswer.safeParse(parseJson(output)).data;
  if (answer === undefined) throw fail('its answer is not what the protocol says');
  return answer.Username === '<token>'
    ? { kind: 'identity-token', token: answer.Secret }
    : { kind: 'password', username: answer.Username, password: answer.Secret };
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function isSystemError(error: unknown): boolean {
  return error instanceof Error && 'syscall' in error;
}
