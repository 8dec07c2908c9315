/** What a reference means to a registry: Docker's defaults filled in, where to ask, what to ask. */
import { HatchError } from '../../base/errors.ts';
import type { Digest } from '../digest.ts';
import { formatReference, parseReference } from '../reference.ts';

export interface RemoteName {
  /** As in references: `docker.io`, `example.org:5000`. */
  registry: string;
  /** Where the interface of the registry is served: `registry-1.docker.io`. */
  host: string;
  repository: string;
  /** A digest wins over a tag. */
  tag: string;
  digest: Digest | undefined;
  /** In full, as the image is called on this host. */
  reference: string;
}

const dockerHub = { registry: 'docker.io', host: 'registry-1.docker.io' };
const dockerHubNames = ['docker.io', 'index.docker.io', dockerHub.host];

/** `alpine` is `docker.io/library/alpine:latest`, as everywhere. Throws `image.invalid`. */
export function parseRemoteName(text: string): RemoteName {
  const named = parseReference(text);
  const isHub = named.registry === undefined || dockerHubNames.includes(named.registry);
  const registry = isHub ? dockerHub.registry : (named.registry ?? '');
  const host = isHub ? dockerHub.host : registry;
  const isOfficial = isHub && !named.repository.includes('/');
  const repository = isOfficial ? `library/${named.repository}` : named.repository;
  const tag = named.tag ?? 'latest';
  const shownTag = named.digest === undefined ? tag : named.tag;
  const reference = formatReference({
    registry,
    repository,
    tag: shownTag,
    digest: named.digest,
  });
  return { registry, host, repository, tag, digest: named.digest, reference };
}

/** `https://mirror.example:5000`, or `http://` for one that may be asked in the clear. */
export function parseMirror(url: string): { host: string; isPlain: boolean } {
  const match = /^(https?):\/\/([^/?#@\s]+)\/?$/.exec(url);
  if (match === null)
    throw new HatchError(
      'host.config_invalid',
      `Cannot use mirror "${url}": give "https://host" or "https://host:port", nothing after it`,
    );
  return { host: match[2] ?? '', isPlain: match[1] === 'http' };
}
