"""The Envoy API messages that the sidecar reads, with their supported and rejected fields.

CONFIGURATION.md describes each supported field. The rejected fields are those of Envoy 1.40: a field in neither set is
a typing error.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kind:
    """The supported (`heeded`) and rejected (`refused`) fields of a message, by protobuf name."""

    heeded: frozenset[str]
    refused: frozenset[str]


def _kind(heeded: str = "", refused: str = "") -> Kind:
    return Kind(frozenset(heeded.split()), frozenset(refused.split()))


KINDS = {
    "envoy.config.bootstrap.v3.Bootstrap": _kind(
        "node static_resources admin application_log_config stats_flush_interval",
        "node_context_params dynamic_resources cluster_manager hds_config flags_path stats_sinks "
        "deferred_stat_options stats_config stats_flush_on_admin stats_eviction_interval watchdog watchdogs "
        "tracing layered_runtime overload_manager enable_dispatcher_stats header_prefix "
        "stats_server_version_override use_tcp_for_dns_lookups dns_resolution_config typed_dns_resolver_config "
        "bootstrap_extensions fatal_actions config_sources default_config_source default_socket_interface "
        "certificate_provider_instances inline_headers perf_tracing_file_path default_regex_engine "
        "xds_delegate_extension xds_config_tracker_extension listener_manager grpc_async_client_manager_config "
        "memory_allocator_manager enable_worker_cpu_affinity",
    ),
    "envoy.config.core.v3.Node": _kind(
        "id cluster metadata",
        "dynamic_parameters locality user_agent_name user_agent_version user_agent_build_version extensions "
        "client_features listening_addresses",
    ),
    "envoy.config.bootstrap.v3.Bootstrap.StaticResources": _kind(
        "listeners clusters",
        "secrets",
    ),
    "envoy.config.bootstrap.v3.Admin": _kind(
        "address allow_paths ignore_global_conn_limit",
        "access_log access_log_path profile_path socket_options",
    ),
    "envoy.type.matcher.v3.StringMatcher": _kind(
        "exact prefix",
        "suffix safe_regex contains custom ignore_case",
    ),
    "envoy.config.bootstrap.v3.Bootstrap.ApplicationLogConfig": _kind(
        "log_format",
    ),
    "envoy.config.bootstrap.v3.Bootstrap.ApplicationLogConfig.LogFormat": _kind(
        "text_format",
        "json_format",
    ),
    "envoy.config.core.v3.Address": _kind(
        "socket_address pipe",
        "envoy_internal_address",
    ),
    "envoy.config.core.v3.SocketAddress": _kind(
        "protocol address port_value ipv4_compat",
        "named_port resolver_name network_namespace_filepath",
    ),
    "envoy.config.core.v3.Pipe": _kind(
        "path mode",
    ),
    "envoy.config.listener.v3.Listener": _kind(
        "name address additional_addresses stat_prefix filter_chains default_filter_chain listener_filters "
        "listener_filters_timeout continue_on_listener_filters_timeout per_connection_buffer_limit_bytes "
        "bind_to_port enable_reuse_port tcp_backlog_size traffic_direction drain_type ignore_global_conn_limit",
        "stats_matcher fcds_config filter_chain_matcher use_original_dst "
        "per_connection_buffer_high_watermark_timeout metadata deprecated_v1 transparent freebind socket_options "
        "tcp_fast_open_queue_length udp_listener_config api_listener connection_balance_config reuse_port "
        "access_log max_connections_to_accept_per_socket_event internal_listener enable_mptcp "
        "bypass_overload_manager tcp_keepalive",
    ),
    "envoy.config.listener.v3.AdditionalAddress": _kind(
        "address",
        "socket_options tcp_keepalive",
    ),
    "envoy.config.listener.v3.ListenerFilter": _kind(
        "name typed_config",
        "config_discovery filter_disabled",
    ),
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector": _kind(
        "",
        "enable_ja3_fingerprinting enable_ja4_fingerprinting initial_read_buffer_size "
        "close_connection_on_client_hello_parsing_errors max_client_hello_size",
    ),
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst": _kind(),
    "envoy.config.listener.v3.FilterChain": _kind(
        "name filter_chain_match filters transport_socket transport_socket_connect_timeout",
        "use_proxy_proto metadata",
    ),
    "envoy.config.listener.v3.FilterChainMatch": _kind(
        "server_names transport_protocol application_protocols",
        "destination_port prefix_ranges address_suffix suffix_len direct_source_prefix_ranges source_type "
        "source_prefix_ranges source_ports",
    ),
    "envoy.config.listener.v3.Filter": _kind(
        "name typed_config",
        "config_discovery",
    ),
    "envoy.config.core.v3.TransportSocket": _kind(
        "name typed_config",
    ),
    "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer": _kind(),
    "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext": _kind(
        "common_tls_context require_client_certificate",
        "require_sni session_ticket_keys session_ticket_keys_sds_secret_config "
        "disable_stateless_session_resumption disable_stateful_session_resumption session_timeout "
        "ocsp_staple_policy full_scan_certs_on_sni_mismatch prefer_client_ciphers",
    ),
    "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext": _kind(
        "common_tls_context sni",
        "auto_host_sni auto_sni_san_validation allow_renegotiation max_session_keys enforce_rsa_key_usage",
    ),
    "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext": _kind(
        "tls_params tls_certificates tls_certificate_sds_secret_configs validation_context "
        "validation_context_sds_secret_config combined_validation_context alpn_protocols",
        "tls_certificate_provider_instance custom_tls_certificate_selector "
        "tls_certificate_certificate_provider tls_certificate_certificate_provider_instance "
        "validation_context_certificate_provider "
        "validation_context_certificate_provider_instance custom_handshaker key_log",
    ),
    "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext": _kind(
        "default_validation_context validation_context_sds_secret_config",
        "validation_context_certificate_provider validation_context_certificate_provider_instance",
    ),
    "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig": _kind(
        "name sds_config",
    ),
    "envoy.extensions.transport_sockets.tls.v3.TlsParameters": _kind(
        "tls_minimum_protocol_version tls_maximum_protocol_version",
        "cipher_suites ecdh_curves signature_algorithms compliance_policies",
    ),
    "envoy.extensions.transport_sockets.tls.v3.TlsCertificate": _kind(
        "certificate_chain private_key",
        "pkcs12 watched_directory private_key_provider password ocsp_staple signed_certificate_timestamp tls_params",
    ),
    "envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext": _kind(
        "trusted_ca",
        "ca_certificate_provider_instance system_root_certs watched_directory verify_certificate_spki "
        "verify_certificate_hash match_typed_subject_alt_names match_subject_alt_names "
        "require_signed_certificate_timestamp crl allow_expired_certificate trust_chain_verification "
        "custom_validator_config only_verify_leaf_cert_crl max_verify_depth suppress_client_ca_list",
    ),
    "envoy.config.core.v3.DataSource": _kind(
        "filename inline_string inline_bytes",
        "environment_variable watched_directory",
    ),
    "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy": _kind(
        "stat_prefix cluster idle_timeout max_connect_attempts",
        "weighted_clusters on_demand metadata_match downstream_idle_timeout upstream_idle_timeout access_log "
        "backoff_options hash_policy tunneling_config max_downstream_connection_duration "
        "max_downstream_connection_duration_jitter_percentage access_log_flush_interval "
        "flush_access_log_on_connected access_log_options proxy_protocol_tlvs proxy_protocol_tlv_merge_policy "
        "upstream_connect_mode max_early_data_bytes check_drain_close",
    ),
    "envoy.extensions.filters.network.echo.v3.Echo": _kind(),
    "envoy.extensions.filters.network.direct_response.v3.Config": _kind(
        "response",
    ),
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager": _kind(
        "codec_type stat_prefix rds route_config http_filters server_name max_request_headers_kb "
        "request_headers_timeout stream_idle_timeout request_timeout common_http_protocol_options "
        "generate_request_id use_remote_address",
        "scoped_routes add_user_agent tracing http1_safe_max_connection_duration http_protocol_options "
        "http2_protocol_options http3_protocol_options server_header_transformation scheme_header_transformation "
        "stream_flush_timeout drain_timeout drain_timeout_jitter delayed_close_timeout access_log "
        "access_log_flush_interval flush_access_log_on_new_request access_log_options xff_num_trusted_hops "
        "original_ip_detection_extensions early_header_mutation_extensions internal_address_config "
        "skip_xff_append via preserve_external_request_id always_set_request_id_in_response "
        "forward_client_cert_details set_current_client_cert_details forward_client_cert_matcher "
        "proxy_100_continue represent_ipv4_remote_address_as_ipv4_mapped_ipv6 upgrade_configs normalize_path "
        "merge_slashes path_with_escaped_slashes_action request_id_extension local_reply_config "
        "strip_matching_host_port strip_any_host_port stream_error_on_invalid_http_message "
        "path_normalization_options strip_trailing_host_dot proxy_status_config typed_header_validation_config "
        "append_x_forwarded_port append_local_overload add_proxy_protocol_connection_state forward_proto_config "
        "record_route_resolution_stats",
    ),
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter": _kind(
        "name typed_config",
        "config_discovery is_optional disabled",
    ),
    "envoy.extensions.filters.http.router.v3.Router": _kind(
        "",
        "dynamic_stats start_child_span upstream_log upstream_log_options suppress_envoy_headers "
        "strict_check_headers respect_expected_rq_timeout suppress_grpc_request_failure_code_stats "
        "upstream_http_filters reject_connect_request_early_data",
    ),
    "envoy.config.core.v3.HttpProtocolOptions": _kind(
        "idle_timeout",
        "max_connection_duration max_connection_duration_jitter max_headers_count max_response_headers_kb "
        "max_stream_duration headers_with_underscores_action max_requests_per_connection",
    ),
    "envoy.extensions.filters.network.http_connection_manager.v3.Rds": _kind(
        "route_config_name config_source",
    ),
    "envoy.config.core.v3.ConfigSource": _kind(
        "resource_api_version initial_fetch_timeout api_config_source",
        "authorities path path_config_source ads self",
    ),
    "envoy.config.core.v3.ApiConfigSource": _kind(
        "api_type transport_api_version cluster_names refresh_delay request_timeout",
        "grpc_services rate_limit_settings set_node_on_first_message_only config_validators",
    ),
    "envoy.config.route.v3.RouteConfiguration": _kind(
        "name virtual_hosts validate_clusters",
        "vhds internal_only_headers response_headers_to_add response_headers_to_remove request_headers_to_add "
        "request_headers_to_remove most_specific_header_mutations_wins max_direct_response_body_size_bytes "
        "cluster_specifier_plugins request_mirror_policies ignore_port_in_host_matching vhost_header "
        "ignore_path_parameters_in_path_matching typed_per_filter_config metadata route_specifiers",
    ),
    "envoy.config.route.v3.VirtualHost": _kind(
        "name domains routes",
        "matcher require_tls virtual_clusters rate_limits request_headers_to_add request_headers_to_remove "
        "response_headers_to_add response_headers_to_remove cors typed_per_filter_config "
        "include_request_attempt_count include_attempt_count_in_response retry_policy retry_policy_typed_config "
        "hedge_policy include_is_timeout_retry_header per_request_buffer_limit_bytes request_body_buffer_limit "
        "request_mirror_policies metadata route_specifiers",
    ),
    "envoy.config.route.v3.Route": _kind(
        "name match route direct_response",
        "redirect filter_action non_forwarding_action metadata decorator typed_per_filter_config "
        "request_headers_to_add request_headers_to_remove response_headers_to_add response_headers_to_remove "
        "tracing per_request_buffer_limit_bytes stat_prefix request_body_buffer_limit route_specifiers",
    ),
    "envoy.config.route.v3.RouteMatch": _kind(
        "prefix",
        "path safe_regex connect_matcher path_separated_prefix path_match_policy case_sensitive runtime_fraction "
        "headers query_parameters cookies grpc tls_context dynamic_metadata filter_state",
    ),
    "envoy.config.route.v3.RouteAction": _kind(
        "cluster timeout",
        "cluster_header weighted_clusters cluster_specifier_plugin inline_cluster_specifier_plugin "
        "cluster_not_found_response_code metadata_match prefix_rewrite regex_rewrite path_rewrite_policy "
        "path_rewrite host_rewrite_literal auto_host_rewrite host_rewrite_header host_rewrite_path_regex "
        "host_rewrite append_x_forwarded_host idle_timeout flush_timeout early_data_policy retry_policy "
        "retry_policy_typed_config request_mirror_policies priority rate_limits include_vh_rate_limits "
        "hash_policy cors max_grpc_timeout grpc_timeout_offset upgrade_configs internal_redirect_policy "
        "internal_redirect_action max_internal_redirects hedge_policy max_stream_duration",
    ),
    "envoy.config.route.v3.DirectResponseAction": _kind(
        "status body",
        "body_format",
    ),
    "envoy.config.cluster.v3.Cluster": _kind(
        "name alt_stat_name type connect_timeout lb_policy load_assignment dns_refresh_rate dns_lookup_family "
        "transport_socket",
        "transport_socket_matches transport_socket_matcher stats_matcher cluster_type eds_cluster_config "
        "per_connection_buffer_limit_bytes per_connection_buffer_high_watermark_timeout health_checks "
        "max_requests_per_connection circuit_breakers upstream_http_protocol_options common_http_protocol_options "
        "http_protocol_options http2_protocol_options typed_extension_protocol_options dns_jitter "
        "dns_failure_refresh_rate respect_dns_ttl dns_resolvers use_tcp_for_dns_lookups dns_resolution_config "
        "typed_dns_resolver_config wait_for_warm_on_init outlier_detection cleanup_interval upstream_bind_config "
        "lb_subset_config ring_hash_lb_config maglev_lb_config original_dst_lb_config least_request_lb_config "
        "round_robin_lb_config common_lb_config metadata protocol_selection upstream_connection_options "
        "close_connections_on_host_health_failure ignore_health_on_host_removal filters load_balancing_policy "
        "lrs_server lrs_report_endpoint_metrics track_timeout_budgets upstream_config track_cluster_stats "
        "preconnect_policy connection_pool_per_downstream_connection queuing_policies",
    ),
    "envoy.config.endpoint.v3.ClusterLoadAssignment": _kind(
        "cluster_name endpoints",
        "named_endpoints policy",
    ),
    "envoy.config.endpoint.v3.LocalityLbEndpoints": _kind(
        "lb_endpoints",
        "locality metadata load_balancer_endpoints leds_cluster_locality_config load_balancing_weight priority "
        "proximity",
    ),
    "envoy.config.endpoint.v3.LbEndpoint": _kind(
        "endpoint",
        "endpoint_name health_status metadata load_balancing_weight",
    ),
    "envoy.config.endpoint.v3.Endpoint": _kind(
        "address",
        "health_check_config hostname additional_addresses observability_name",
    ),
}
