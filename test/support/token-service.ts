/** What a registry with token authentication sends its clients to: signs tokens for one user. */
import { X509Certificate, sign } from 'node:crypto';
import { once } from 'node:events';
import { createServer, type IncomingMessage, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { basicAuthorization, type RegistryUser } from './registry-server.ts';

const service = 'hatch-test-registry';
const issuer = 'hatch-test-issuer';

export class TokenService implements AsyncDisposable {
  readonly #server: Server;
  /** How many tokens were asked for. */
  asked = 0;

  private constructor(server: Server) {
    this.#server = server;
  }

  /** Anybody may pull; only the user may push. `key` and `certificate` are PEM, of curve P-256. */
  static async start(options: {
    user: RegistryUser;
    key: string;
    certificate: string;
  }): Promise<TokenService> {
    const self = new TokenService(
      createServer((request, response) => {
        self.asked++;
        const { authorization } = request.headers;
        const isUser = authorization === basicAuthorization(options.user);
        if (authorization !== undefined && !isUser) response.writeHead(401).end();
        else response.end(JSON.stringify({ token: signToken(request, isUser, options) }));
      }),
    );
    self.#server.listen(0, '127.0.0.1');
    await once(self.#server, 'listening');
    return self;
  }

  /** The `auth` of a registry's configuration. */
  settings(certificateFile: string): object {
    const { port } = this.#server.address() as AddressInfo;
    const realm = `http://127.0.0.1:${port}/token`;
    return { token: { realm, service, issuer, rootcertbundle: certificateFile } };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, 'close');
  }
}

function signToken(
  request: IncomingMessage,
  isUser: boolean,
  { key, certificate }: { key: string; certificate: string },
): string {
  const asked = new URL(request.url ?? '', 'http://localhost').searchParams.getAll('scope');
  const access = asked.map((scope) => {
    const [type, name, actions = ''] = scope.split(':');
    const granted = actions.split(',').filter((action) => isUser || action === 'pull');
    return { type, name, actions: granted };
  });
  const nowS = Math.floor(Date.now() / 1000);
  const times = { iat: nowS, nbf: nowS - 5, exp: nowS + 60 };
  const chain = [new X509Certificate(certificate).raw.toString('base64')];
  const text = [
    { typ: 'JWT', alg: 'ES256', x5c: chain },
    { iss: issuer, aud: service, sub: 'hatch', jti: String(nowS), ...times, access },
  ]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
    .join('.');
  const signature = sign('sha256', Buffer.from(text), { key, dsaEncoding: 'ieee-p1363' });
  return `${text}.${signature.toString('base64url')}`;
}
