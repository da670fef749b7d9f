//! `onagui_sync` keeps an application's users in step with Supabase Auth.

mod catalog;
mod error;
mod pg;
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

// The doors: what SQL can call.
door! {
    sync_auth_user_to_app_users => signup::auth_user_changed;
    sync_column_changed => signup::mapping_changed;
    enable_sync => signup::triggers::enable;
    disable_sync => signup::triggers::disable;
    create_app_users => signup::create_app_users;
    sync_status => status::status;
    sync_summary => status::summary;
}

pgrx::extension_sql_file!("../sql/install/10_tables.sql", name = "tables");
pgrx::extension_sql_file!("../sql/install/20_signup.sql", name = "signup", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/install/40_status.sql", name = "status", requires = ["tables"]);
pgrx::extension_sql_file!(
    "../sql/install/90_grants.sql",
    name = "grants",
    requires = ["signup", "status"]
);
pgrx::extension_sql_file!(
    "../sql/install/99_attach.sql",
    name = "attach",
    requires = ["grants"],
    finalize
);
