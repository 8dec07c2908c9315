/**
 * Where a function may go: the list in its manifest, and what follows of it for a firewall, its
 * /etc/hosts and its /etc/resolv.conf. Pure functions of plain data.
 */
import { createHash } from 'node:crypto';
import { formatSubnet, isIpv4, parseAddress, parseSubnet, type Subnet } from './subnet.ts';

/** One line of `network.egress`. */
export interface EgressRule {
  to: 'anywhere' | { subnet: Subnet } | { name: string };
  /** Undefined means tcp and udp, every port. */
  service: { port: number; protocol: 'tcp' | 'udp' } | undefined;
}

/** One thing that a function may do. */
export interface Permit {
  family: 4 | 6;
  /** `10.0.0.0/8`; undefined means anywhere but what nobody may reach. */
  to: string | undefined;
  protocol: 'tcp' | 'udp';
  /** Undefined means all. */
  port: number | undefined;
}

/** What instances of a function may do; two with the same id may do the same. */
export interface EgressPolicy {
  id: string;
  /** These count even where `neverReachable` says no: a cloud's nameserver may be link-local. */
  dns: Permit[];
  permits: Permit[];
  /** For /etc/hosts: names with the addresses that the firewall lets through. */
  hosts: { name: string; addresses: string[] }[];
  /** For /etc/resolv.conf. */
  nameservers: string[];
}

/**
 * Nobody's egress list reaches these: metadata services of the clouds, everything link-local and
 * multicast, this network, and the ways in which IPv6 addresses spell IPv4 ones of those.
 */
export const neverReachable = {
  4: [
    '0.0.0.0/8',
    '100.100.100.200/32',
    '127.0.0.0/8',
    '168.63.129.16/32',
    '169.254.0.0/16',
    '192.0.0.192/32',
    '224.0.0.0/3',
  ],
  6: [
    '::/96',
    '::ffff:0.0.0.0/96',
    '64:ff9b::6464:64c8/128',
    '64:ff9b::7f00:0/104',
    '64:ff9b::a83f:8110/128',
    '64:ff9b::a9fe:0/112',
    '2002:a9fe::/32',
    'fd00:ec2::/32',
    'fd20:ce::254/128',
    'fe80::/10',
    'ff00::/8',
  ],
} as const;

const nameCharsMax = 253;
const label = /^[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?$/i;
const dnsPort = 53;

/**
 * `443/tcp`, `10.0.0.0/8`, `10.1.2.3:5432/tcp`, `[2001:db8::/32]:443/tcp`, `example.com:443/tcp`.
 * Undefined when it is none of these.
 */
export function parseEgressRule(text: string): EgressRule | undefined {
  const withService = /^(?:(.+):)?(\d{1,5})\/(tcp|udp)$/.exec(text);
  const [, target, port, protocol] = withService ?? [undefined, text];
  const service =
    port === undefined ? undefined : { port: Number(port), protocol: protocol as 'tcp' | 'udp' };
  if (service !== undefined && (service.port < 1 || service.port > 65_535)) return undefined;
  const to = withService === null ? text : target;
  if (to === undefined) return { to: 'anywhere', service };
  const bracketed = /^\[(.+)\]$/.exec(to)?.[1];
  const subnet = parseSubnet(bracketed ?? to);
  // Without brackets nobody could tell the port from the address.
  const needsBrackets = service !== undefined && subnet !== undefined && !isIpv4(subnet);
  if (subnet !== undefined && (bracketed !== undefined || !needsBrackets))
    return { to: { subnet }, service };
  if (bracketed !== undefined || subnet !== undefined || !isName(to)) return undefined;
  return { to: { name: to.toLowerCase() }, service };
}

export function namesIn(rules: readonly EgressRule[]): string[] {
  const names = rules.flatMap(({ to }) => (to !== 'anywhere' && 'name' in to ? [to.name] : []));
  return [...new Set(names)].toSorted();
}

/** `addresses` are those of each name; `nameservers` those that functions of this host may use. */
export function makePolicy(options: {
  rules: readonly EgressRule[];
  addresses: ReadonlyMap<string, readonly string[]>;
  nameservers: readonly string[];
}): EgressPolicy {
  const { rules, addresses } = options;
  // Whoever may go anywhere must be able to find out where; any other needs to ask nobody.
  const asks = rules.some(({ to }) => to === 'anywhere');
  const nameservers = asks ? [...options.nameservers] : [];
  const dns = nameservers.flatMap((address) =>
    permitsTo(hostSubnet(address), [
      { protocol: 'udp', port: dnsPort },
      { protocol: 'tcp', port: dnsPort },
    ]),
  );
  const permits = rules.flatMap(({ to, service }) => {
    const services = service === undefined ? everyService : [service];
    if (to === 'anywhere') return permitsTo(undefined, services);
    if ('subnet' in to) return permitsTo(to.subnet, services);
    return (addresses.get(to.name) ?? []).flatMap((one) => permitsTo(hostSubnet(one), services));
  });
  const hosts = namesIn(rules).map((name) => ({
    name,
    addresses: [...(addresses.get(name) ?? [])].toSorted(),
  }));
  const content = { dns, permits, hosts, nameservers };
  const id = createHash('sha256').update(JSON.stringify(content)).digest('hex').slice(0, 12);
  return { id, ...content };
}

/** What the firewall lets through under a name is what the name means inside. */
export function hostsFile({ hosts }: Pick<EgressPolicy, 'hosts'>): string {
  const named = hosts.flatMap(({ name, addresses }) => addresses.map((one) => `${one} ${name}`));
  return ['127.0.0.1 localhost', '::1 localhost', ...named, ''].join('\n');
}

export function resolversFile({ nameservers }: Pick<EgressPolicy, 'nameservers'>): string {
  return nameservers.map((address) => `nameserver ${address}\n`).join('');
}

/** The ports that TCP goes to, whatever the address; undefined when it may go to all. */
export function tcpPortsOf({
  dns,
  permits,
}: Pick<EgressPolicy, 'dns' | 'permits'>): readonly number[] | undefined {
  const ports = new Set<number>();
  for (const { protocol, port } of [...dns, ...permits]) {
    if (protocol !== 'tcp') continue;
    if (port === undefined) return undefined;
    ports.add(port);
  }
  return [...ports];
}

/** With a dot at least; one of numbers only is an address with a mistake in it. */
function isName(text: string): boolean {
  const labels = text.split('.');
  if (labels.length < 2 || text.length > nameCharsMax || /^[\d.]+$/.test(text)) return false;
  return labels.every((one) => label.test(one));
}

type Service = Pick<Permit, 'protocol' | 'port'>;

const everyService: Service[] = [
  { protocol: 'tcp', port: undefined },
  { protocol: 'udp', port: undefined },
];

function permitsTo(subnet: Subnet | undefined, services: readonly Service[]): Permit[] {
  const families = subnet === undefined ? ([4, 6] as const) : [isIpv4(subnet) ? 4 : 6];
  const to = subnet === undefined ? undefined : formatSubnet(subnet);
  return families.flatMap((family) =>
    services.map(({ protocol, port }) => ({ family: family as 4 | 6, to, protocol, port })),
  );
}

function hostSubnet(text: string): Subnet {
  const address = parseAddress(text);
  if (address === undefined) throw new TypeError(`"${text}" is no network address`);
  return { address, prefixLength: address.length * 8 };
}
