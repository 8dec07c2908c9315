/** Where the hosts are: which NATS server to ask, and how to get in. */
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { credsAuthenticator } from '@nats-io/nats-core';
import type { NatsConnection } from '@nats-io/nats-core';
import { connect } from '@nats-io/transport-node';
import { z } from 'zod';
import { HatchError, messageOf } from '../base/errors.ts';
import { natsCredentialsFileName } from '../dispatch/nats-server.ts';
import { text } from './command.ts';
import type { CommandOption, OptionValues } from './command.ts';

export const connectionOptions: Record<string, CommandOption> = {
  nats: { type: 'string', value: 'URL', help: 'NATS server (HATCH_NATS_URL)' },
  token: { type: 'string', value: 'TOKEN', help: 'its token (HATCH_NATS_TOKEN)' },
  creds: { type: 'string', value: 'FILE', help: 'its credentials (HATCH_NATS_CREDENTIALS_FILE)' },
  state: {
    type: 'string',
    value: 'DIR',
    help: 'state directory of the host on this machine (HATCH_STATE_DIRECTORY)',
  },
};

export interface Target {
  url: string;
  token: string | undefined;
  credentialsFile: string | undefined;
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
  const url = text(values, 'nats') ?? nonEmpty(environment['HATCH_NATS_URL']);
  const target = {
    token: text(values, 'token') ?? nonEmpty(environment['HATCH_NATS_TOKEN']),
    credentialsFile: text(values, 'creds') ?? nonEmpty(environment['HATCH_NATS_CREDENTIALS_FILE']),
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

/** @throws HatchError `host.nats_unavailable` that says what to do */
export async function connectTo(target: Target): Promise<NatsConnection> {
  const { url, token, credentialsFile } = target;
  const access = {
    ...(token === undefined ? {} : { token }),
    ...(credentialsFile === undefined
      ? {}
      : { authenticator: credsAuthenticator(await readCredentials(credentialsFile)) }),
  };
  try {
    return await connect({
      servers: url,
      name: 'hatch command line',
      noAsyncTraces: true,
      timeout: connectTimeoutMs,
      ...access,
    });
  } catch (error) {
    const hint = target.notice ?? 'start a host with "hatch up", or name its server with --nats';
    throw new HatchError(
      'host.nats_unavailable',
      `Cannot reach NATS at "${url}": ${messageOf(error)}; ${hint}`,
      { cause: error },
    );
  }
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

async function readCredentials(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    const message = `Cannot read NATS credentials "${path}": ${messageOf(cause)}`;
    throw new HatchError('host.nats_unavailable', message, { cause });
  }
}

function nonEmpty(value: string | undefined): string | undefined {
  return value === '' ? undefined : value;
}
