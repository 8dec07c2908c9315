import { IptablesDriver } from '../../host/network/iptables.ts';
import { leaveMachineNetwork } from '../support/test-network.ts';
import { firewallFaults } from './firewall-faults.ts';
import { firewallContract } from './firewall.ts';

leaveMachineNetwork();
firewallContract((options) => new IptablesDriver(options));
firewallFaults((options) => new IptablesDriver(options));
