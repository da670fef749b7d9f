//! `onagui_sync` keeps an application's users in step with Supabase Auth.

mod catalog;
mod error;
mod fix;
mod health;
mod pg;
mod registration;
mod report;
mod settings;
mod signup;
mod statements;
mod status;

pgrx::pg_module_magic!(name, version);

#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::define();
    pg::start();
}

// The doors: what SQL can call. The SQL of older versions goes on calling them until it is updated, so none is ever renamed or
// taken away.
door! {
    sync_auth_user_to_app_users => signup::auth_user_changed;
    sync_column_changed => signup::mapping_changed;
    enable_sync => signup::triggers::enable;
    disable_sync => signup::triggers::disable;
    create_app_users => signup::create_app_users;
    fix_user_id_mismatch => fix::fix_user_id_mismatch;
    fix_user_ids => fix::fix_user_ids;
    fix_user_id => fix::fix_user_id;
    fix_all_user_ids => fix::fix_all_user_ids;
    undo_fix => fix::undo_fix;
    register_reference => fix::register_reference;
    unregister_reference => fix::unregister_reference;
    unregister_reference_by_name => fix::unregister_reference_by_name;
    prune_audit => fix::prune_audit;
    sync_status => status::status;
    sync_summary => status::summary;
    sync_user_registration => registration::sync_user_registration;
    sync_report => report::report;
    sync_health => health::health;
}

pgrx::extension_sql_file!("../sql/install/00_guard.sql", name = "guard", bootstrap);
pgrx::extension_sql_file!("../sql/install/10_tables.sql", name = "tables");
pgrx::extension_sql_file!("../sql/install/20_signup.sql", name = "signup", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/install/30_repair.sql", name = "repair", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/install/40_status.sql", name = "status", requires = ["tables"]);
pgrx::extension_sql_file!(
    "../sql/install/50_registration.sql",
    name = "registration",
    requires = ["tables"]
);
pgrx::extension_sql_file!(
    "../sql/install/90_grants.sql",
    name = "grants",
    requires = ["signup", "repair", "status", "registration"]
);
pgrx::extension_sql_file!(
    "../sql/install/95_api_roles.sql",
    name = "api_roles",
    requires = ["grants"]
);
pgrx::extension_sql_file!("../sql/install/96_names.sql", name = "names", requires = ["api_roles"]);
pgrx::extension_sql_file!(
    "../sql/install/99_attach.sql",
    name = "attach",
    requires = ["names"],
    finalize
);
