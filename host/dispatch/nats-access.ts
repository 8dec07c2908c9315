/** How hosts and the command line get into a NATS server: who they are, and whom they trust. */
import { readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import { credsAuthenticator, nkeyAuthenticator } from '@nats-io/nats-core';
import type { ConnectionOptions, NatsConnection, TlsOptions } from '@nats-io/nats-core';
import { connect } from '@nats-io/transport-node';
import { HatchError, messageOf } from '../base/errors.ts';
import { natsRefusal } from '../function/nats-refusal.ts';

export interface NatsAccess {
  /** `nats://host:port`; `tls://` insists on TLS. */
  url: string;
  token?: string | undefined;
  /** A user's JWT and seed, as `nsc` writes them. */
  credentialsFile?: string | undefined;
  /** An nkey's seed. */
  nkeyFile?: string | undefined;
  /** Who may have signed the server's certificate; without it those whom Node.js trusts. */
  tlsCaFile?: string | undefined;
  /** The client's own certificate, for a server that asks for one, and its key. */
  tlsCertFile?: string | undefined;
  tlsKeyFile?: string | undefined;
  /** Where replies are received, for users who may not see those of others. */
  inboxPrefix?: string | undefined;
}

/**
 * `hint` says what else to do when there is no server.
 * @throws HatchError `request.forbidden` when the server refuses the credentials,
 *   `host.nats_unavailable` when a file cannot be read or there is no server
 */
export async function connectNats(
  access: NatsAccess,
  { hint, ...options }: ConnectionOptions & { hint?: string },
): Promise<NatsConnection> {
  const { url, token, inboxPrefix } = access;
  try {
    return await connect({
      ...options,
      servers: url,
      ...(token === undefined ? {} : { token }),
      ...(inboxPrefix === undefined ? {} : { inboxPrefix }),
      ...authenticator(access),
      ...tls(access),
    });
  } catch (cause) {
    if (cause instanceof HatchError) throw cause;
    const refusal = natsRefusal(cause);
    if (refusal !== undefined) throw refusal;
    const advice = [adviceOn(cause), hint].filter((text) => text !== undefined);
    const message = [`Cannot reach NATS at "${url}": ${messageOf(cause)}`, ...advice].join('; ');
    throw new HatchError('host.nats_unavailable', message, { cause });
  }
}

/** Read anew for each connection: credentials can be replaced while a host runs. */
function authenticator({ credentialsFile, nkeyFile }: NatsAccess): ConnectionOptions {
  if (credentialsFile !== undefined) {
    const read = (): Buffer => readAccessFile('credentials', credentialsFile);
    if (!/NATS USER JWT[^]*USER NKEY SEED/.test(read().toString('latin1'))) {
      throw unusable('credentials', credentialsFile, "it holds no user's JWT and seed");
    }
    return { authenticator: credsAuthenticator(read) };
  }
  if (nkeyFile === undefined) return {};
  const read = (): Buffer =>
    Buffer.from(readAccessFile('nkey', nkeyFile).toString('latin1').trim());
  if (!/^SU[A-Z2-7]{56}$/.test(read().toString('latin1'))) {
    throw unusable('nkey', nkeyFile, "it must hold a user's seed, which begins with SU");
  }
  return { authenticator: nkeyAuthenticator(read) };
}

function unusable(what: string, path: string, why: string): HatchError {
  return new HatchError('host.nats_unavailable', `Cannot use NATS ${what} "${path}": ${why}`);
}

/** With any of these the client goes on only over TLS. */
function tls({ url, tlsCaFile, tlsCertFile, tlsKeyFile }: NatsAccess): { tls?: TlsOptions } {
  const files = { ca: tlsCaFile, cert: tlsCertFile, key: tlsKeyFile };
  const given = Object.entries(files).filter(([, path]) => path !== undefined);
  if (given.length === 0 && !url.startsWith('tls:')) return {};
  const texts = given.map(([name, path]) => {
    return [name, readAccessFile(`TLS ${name}`, path ?? '').toString('latin1')];
  });
  // Of a server without a name the client would verify that it is "localhost".
  const host = new URL(url).hostname.replace(/^\[(.*)\]$/, '$1');
  const verified = isIP(host) === 0 ? {} : { host };
  return { tls: { ...Object.fromEntries(texts), ...verified } as TlsOptions };
}

function readAccessFile(what: string, path: string): Buffer {
  try {
    return readFileSync(path);
  } catch (cause) {
    const message = `Cannot read NATS ${what} "${path}": ${messageOf(cause)}`;
    throw new HatchError('host.nats_unavailable', message, { cause });
  }
}

const tlsAdvice: Record<string, string> = {
  SELF_SIGNED_CERT_IN_CHAIN: 'name the file of its certificate authority',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'name the file of its certificate authority',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'name the file of its certificate authority',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'name the file of its certificate authority',
  ERR_TLS_CERT_ALTNAME_INVALID: 'use a name for the server that its certificate has',
  ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'it asks for a client certificate and its key',
  CERT_HAS_EXPIRED: 'renew its certificate',
};

function adviceOn(error: unknown): string | undefined {
  for (let cause = error; cause instanceof Error; cause = cause.cause) {
    const code = 'code' in cause ? tlsAdvice[String(cause.code)] : undefined;
    if (code !== undefined) return code;
  }
  return undefined;
}
