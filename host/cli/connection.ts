/** Where the hosts are: which NATS server to ask, and how to get in. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { NatsConnection } from '@nats-io/nats-core';
import { z } from 'zod';
import { HatchError, messageOf } from '../base/errors.ts';
import { connectNats, type NatsAccess } from '../dispatch/nats-access.ts';
import { natsCredentialsFileName } from '../dispatch/nats-server.ts';
import { functionNamePattern } from '../function/manifest.ts';
import { text } from './command.ts';
import type { CommandOption, OptionValues } from './command.ts';

const option = (value: string, help: string): CommandOption => ({ type: 'string', value, help });

export const connectionOptions: Record<string, CommandOption> = {
  nats: option('URL', 'NATS server (HATCH_NATS_URL)'),
  token: option('TOKEN', 'its token (HATCH_NATS_TOKEN)'),
  creds: option('FILE', 'its credentials (HATCH_NATS_CREDENTIALS_FILE)'),
  nkey: option('FILE', 'the seed of an nkey that it knows (HATCH_NATS_NKEY_FILE)'),
  'tls-ca': option('FILE', 'who has signed its certificate (HATCH_NATS_TLS_CA_FILE)'),
  'tls-cert': option('FILE', 'a certificate to show to it (HATCH_NATS_TLS_CERT_FILE)'),
  'tls-key': option('FILE', 'the key of that certificate (HATCH_NATS_TLS_KEY_FILE)'),
  'inbox-prefix': option('PREFIX', 'where to receive replies (HATCH_NATS_INBOX_PREFIX)'),
  tenant: option('NAME', 'to deploy and set secrets for this one only (HATCH_TENANT)'),
  state: option('DIR', 'state directory of the host on this machine (HATCH_STATE_DIRECTORY)'),
};

export interface Target extends NatsAccess {
  /** Why it is not the host of this machine, when that could not be found out. */
  notice: string | undefined;
}

/**
 * The server of `--nats` or HATCH_NATS_URL, else the embedded one of the host on this machine, else
 * the default port.
 */
export async function findTarget(
  values: OptionValues,
  environment: NodeJS.ProcessEnv,
): Promise<Target> {
  const given = (name: string, variable: string): string | undefined =>
    text(values, name) ?? nonEmpty(environment[`HATCH_NATS_${variable}`]);
  const url = given('nats', 'URL');
  const target = {
    token: given('token', 'TOKEN'),
    credentialsFile: given('creds', 'CREDENTIALS_FILE'),
    nkeyFile: given('nkey', 'NKEY_FILE'),
    tlsCaFile: given('tls-ca', 'TLS_CA_FILE'),
    tlsCertFile: given('tls-cert', 'TLS_CERT_FILE'),
    tlsKeyFile: given('tls-key', 'TLS_KEY_FILE'),
    inboxPrefix: given('inbox-prefix', 'INBOX_PREFIX'),
    notice: undefined,
  };
  if (url !== undefined) return { ...target, url };
  const state =
    text(values, 'state') ?? nonEmpty(environment['HATCH_STATE_DIRECTORY']) ?? stateDefault;
  const file = join(state, natsCredentialsFileName);
  try {
    const found = fileSchema.parse(JSON.parse(await readFile(file, 'utf8')));
    return { ...target, url: found.url, token: target.token ?? found.token };
  } catch (error) {
    return { ...target, url: urlDefault, notice: noticeOf(file, error) };
  }
}

/** @throws HatchError `request.invalid` when it cannot be the name of a tenant */
export function tenantOf(values: OptionValues, environment: NodeJS.ProcessEnv): string | undefined {
  const tenant = text(values, 'tenant') ?? nonEmpty(environment['HATCH_TENANT']);
  if (tenant === undefined || functionNamePattern.test(tenant)) return tenant;
  const message = `Cannot speak for tenant "${tenant}": its name must be of a-z, 0-9 and -`;
  throw new HatchError('request.invalid', message);
}

/** @throws HatchError `host.nats_unavailable` or `request.forbidden` that says what to do */
export async function connectTo(target: Target): Promise<NatsConnection> {
  return await connectNats(target, {
    name: 'hatch command line',
    noAsyncTraces: true,
    timeout: connectTimeoutMs,
    hint: target.notice ?? 'start a host with "hatch up", or name its server with --nats',
  });
}

const stateDefault = '/var/lib/hatchery';
const urlDefault = 'nats://127.0.0.1:4222';
const connectTimeoutMs = 5000;
const fileSchema = z.object({ url: z.string(), token: z.string() });

/** A missing file is the usual case without a host; another failure is worth a word. */
function noticeOf(file: string, error: unknown): string | undefined {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  if (code === 'ENOENT' || code === 'ENOTDIR') return undefined;
  if (code === 'EACCES') {
    return `"${file}" cannot be read: run as the owner of the host, or pass --nats and --token`;
  }
  return `"${file}" cannot be used: ${messageOf(error)}`;
}

function nonEmpty(value: string | undefined): string | undefined {
  return value === '' ? undefined : value;
}
