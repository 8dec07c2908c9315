import { NftablesDriver } from '../../host/network/nftables.ts';
import { leaveMachineNetwork } from '../support/test-network.ts';
import { firewallFaults } from './firewall-faults.ts';
import { firewallContract } from './firewall.ts';

leaveMachineNetwork();
firewallContract((options) => new NftablesDriver(options));
firewallFaults((options) => new NftablesDriver(options));
