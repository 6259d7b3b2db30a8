#!/usr/bin/perl
# A resolver on 127.0.0.1 and ::1 whose every name has the address 192.0.2.77. Says "ready" once it listens.
use strict;
use warnings;
use Socket qw(:DEFAULT inet_pton pack_sockaddr_in6 AF_INET6 IPPROTO_IPV6 IPV6_V6ONLY);

socket(my $four, AF_INET, SOCK_DGRAM, 0) or die "socket: $!";
bind($four, pack_sockaddr_in(53, inet_aton('127.0.0.1'))) or die "bind: $!";
socket(my $six, AF_INET6, SOCK_DGRAM, 0) or die "socket: $!";
setsockopt($six, IPPROTO_IPV6, IPV6_V6ONLY, 1) or die "setsockopt: $!";
bind($six, pack_sockaddr_in6(53, inet_pton(AF_INET6, '::1'))) or die "bind: $!";
$| = 1;
print "ready\n";
while (1) {
    my $wanted = '';
    vec($wanted, fileno($_), 1) = 1 for $four, $six;
    select(my $ready = $wanted, undef, undef, undef);
    for my $socket (grep { vec($ready, fileno($_), 1) } $four, $six) {
        my $peer = recv($socket, my $query, 2000, 0) // next;
        my $at = 12;
        $at += ord(substr($query, $at, 1)) + 1 while $at < length($query) && ord(substr($query, $at, 1));
        my $is_address = unpack('n', substr($query, $at + 1, 2)) == 1;
        my $answer = $is_address ? "\xc0\x0c\0\1\0\1\0\0\0\5\0\4" . inet_aton('192.0.2.77') : '';
        my $counts = pack('n4', 1, $is_address ? 1 : 0, 0, 0);
        send($socket, substr($query, 0, 2) . "\x81\x80" . $counts . substr($query, 12, $at + 5 - 12) . $answer, 0, $peer);
    }
}
